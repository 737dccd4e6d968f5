// npm's face-api and human as contestants: their own weights on TensorFlow.js' WebAssembly backend, without their detectors.
//
// node peer_node.mjs NODE_FOLDER NAME; npm installed the packages in NODE_FOLDER, NAME is face_api or human.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";

const SIDE = 48, BATCH = 64;
const LABELS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"];
const [nodeFolder, name] = process.argv.slice(2);
const packages = path.resolve(nodeFolder, "node_modules");
const require = createRequire(path.join(packages, "here.js"));

// Faces, each a Uint8Array, of a .npy of uint8 (n, 48, 48).
function readFaces(file) {
  const bytes = fs.readFileSync(file);
  const end = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, end);
  const count = Number(/'shape': \((\d+), 48, 48\)/.exec(header)?.[1]);
  if (bytes[6] !== 1 || !/'descr': '\|u1'/.test(header) || !/'fortran_order': False/.test(header) || !count)
    throw new Error(`${file} is no uint8 (n, 48, 48) in C order: ${header.trim()}`);
  return Array.from({ length: count }, (_, i) => bytes.subarray(end + i * SIDE * SIDE, end + (i + 1) * SIDE * SIDE));
}

// Rows of seven numbers as a .npy of float32 (n, 7), each of sum 1.
function writeRows(file, scores) {
  const rows = scores.map((row) => row.map((value) => value / row.reduce((sum, each) => sum + each, 0)));
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${LABELS.length}), }`;
  const start = Buffer.from(`\x93NUMPY\x01\x00\x00\x00${header.padEnd(117)}\n`, "latin1");
  start.writeUInt16LE(118, 8);
  fs.writeFileSync(file, Buffer.concat([start, Buffer.from(Float32Array.from(rows.flat()).buffer)]));
}

// A grey face as the equal channels of a colour picture.
function colours(tf, face) {
  const values = new Float32Array(3 * face.length);
  face.forEach((value, i) => values.fill(value, 3 * i, 3 * i + 3));
  return tf.tensor3d(values, [SIDE, SIDE, 3]);
}

async function faceApi(tf) {
  const api = require("@vladmandic/face-api/dist/face-api.node-wasm.js");
  const net = api.nets.faceExpressionNet;
  await net.loadFromDisk(path.join(packages, "@vladmandic/face-api/model"));
  const named = ["angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"];
  return async (faces) => {
    const pictures = faces.map((face) => colours(tf, face));
    const answers = await net.predictExpressions(pictures);
    tf.dispose(pictures);
    return answers.map((answer) => named.map((label) => answer[label]));
  };
}

async function human(tf) {
  const model = path.join(packages, "@vladmandic/human/models");
  const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(path.join(model, "emotion.json"), "utf8"));
  const weights = new Uint8Array(fs.readFileSync(path.join(model, "emotion.bin"))).buffer;
  const artifacts = { modelTopology, weightSpecs: weightsManifest[0].weights, weightData: weights };
  const net = await tf.loadGraphModel(tf.io.fromMemory(artifacts));
  // As in human's gear/emotion.ts, which cannot be called without its detector: one face at a time.
  const classify = (face) => tf.tidy(() => {
    const large = tf.image.resizeBilinear(colours(tf, face).div(255).expandDims(0), [64, 64], false);
    const grey = tf.sum(tf.mul(large, tf.tensor1d([0.2989, 0.587, 0.114])), 3, true);
    return Array.from(net.execute(tf.mul(tf.sub(grey, 0.5), 2)).dataSync());
  });
  return async (faces) => faces.map(classify);
}

const contestants = {
  face_api: {
    start: faceApi, from: "@vladmandic/face-api", weights: "model/face_expression_model.bin",
    how: "faceExpressionNet.predictExpressions, behind its detector",
  },
  human: {
    start: human, from: "@vladmandic/human", weights: "models/emotion.bin",
    how: "its network alone, fed as its code feeds it: the face at 64 x 64, one at a time",
  },
};

async function main() {
  const tf = require("@tensorflow/tfjs");
  require("@tensorflow/tfjs-backend-wasm").setWasmPaths(path.join(packages, "@tensorflow/tfjs-backend-wasm/dist/"));
  await tf.setBackend("wasm");
  const { start, from, weights, how } = contestants[name];
  const told = JSON.parse(fs.readFileSync(path.join(packages, from, "package.json"), "utf8"));
  const classify = await start(tf);
  const bytes = fs.statSync(path.join(packages, from, weights)).size;
  console.log(JSON.stringify({ labels: LABELS, version: told.version, licence: told.license, bytes, how }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    const faces = readFaces(asked.faces);
    if ("seconds" in asked) {
      console.log(JSON.stringify(await speed(classify, faces, asked.seconds)));
      continue;
    }
    const answers = [];
    for (let i = 0; i < faces.length; i += BATCH) answers.push(...(await classify(faces.slice(i, i + BATCH))));
    writeRows(asked.answers, answers);
    console.log(JSON.stringify({ done: faces.length }));
  }
}

async function speed(classify, faces, seconds) {
  for (const face of faces.slice(0, 5)) await classify([face]);
  const batch = Array.from({ length: BATCH }, (_, i) => faces[i % faces.length]);
  let count = 0, began = performance.now();
  for (; performance.now() - began < 1000 * seconds; count += BATCH) await classify(batch);
  const rate = (1000 * count) / (performance.now() - began);
  const single = [];
  began = performance.now();
  for (let place = 0; performance.now() - began < 1000 * seconds; place = (place + 1) % faces.length) {
    const before = performance.now();
    await classify([faces[place]]);
    single.push(performance.now() - before);
  }
  return { faces_per_second: rate, single_ms: single };
}

main().catch((error) => {
  console.error(error.message.split("\n")[0]);
  process.exit(1);
});
