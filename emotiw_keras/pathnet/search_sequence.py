"""The searches of a recipe, one task after another, and what they write."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.errors import DivergedError, RunError
from emotiw_keras.files import atomic_path, check_room, sha256_file, write_atomic
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.models.weights import weight_bytes
from emotiw_keras.pathnet import evolution
from emotiw_keras.pathnet.bank import Bank, check_parent
from emotiw_keras.pathnet.evolution import Path, path_of, path_text
from emotiw_keras.pathnet.path_step import PathSteps
from emotiw_keras.pathnet.search import Search
from emotiw_keras.pathnet.search_facts import check_arrays, check_state, done_facts
from emotiw_keras.pathnet.search_progress import Progress
from emotiw_keras.pathnet.stream import Stream
from emotiw_keras.progress import Bar
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import Run
from emotiw_keras.text import number_of
from emotiw_keras.training import checkpoints
from emotiw_keras.training.events import write_events
from emotiw_keras.training.interrupts import Flag, Interrupted, delayed_signals
from emotiw_keras.training.run_writer import HISTORY_COLUMNS, check_there, make_folder, table_text, write_done, write_info
from emotiw_keras.training.stage_facts import read_done

if TYPE_CHECKING:
    from emotiw_keras.training.kinds import Job
    from emotiw_keras.training.prepared_data import Prepared

SECONDS_BETWEEN_CHECKPOINTS = 60.0
CHECKPOINTS_KEPT = 2
SEARCH_FILE = "search.csv"
SEARCH_COLUMNS = ("search", "generation", "kind", "individual", "path", "fitness", "loss", "won", "minibatches")
# What the numbers drawn of one generation are for.
_CONTEST, _POPULATION, _MODULES, _READOUT = range(4)


@dataclass
class State:
    """Where a search stands, beside its arrays: all of it goes into a checkpoint.

    Attributes:
        generation: generations done, those of final training included.
        ended: the generation after which the search itself ended, 0 before.
        minibatches: trained so far, by whatever path; names the next one.
        last: position of the last winner.
        best: position of the best path once the search has ended.
        rows: of history.csv, one a generation.
        log: of search.csv, one a trial.
        before: hashes of the frozen modules at the start.
    """

    generation: int = 0
    ended: int = 0
    minibatches: int = 0
    last: int = 0
    best: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)


class SearchLoop:
    """Search a path for one task after another, into a run folder that survives a kill at any moment.

    Args:
        prepared: the searches and their data.
        job: where, and with what.

    Raises:
        ModelError: the run that gives the modules holds others.
    """

    def __init__(self, prepared: Prepared, job: Job) -> None:
        assert job.face_input is not None
        check_parent(prepared)
        recipe = prepared.recipe
        self.searches: tuple[Search, ...] = recipe.stages
        self.parent, self.face_input, self.run_dir, self.info, self.say = (
            prepared.parent, job.face_input, job.folder, job.info, job.say,
        )  # fmt: skip
        self.progress = Progress(None if job.progress is None or job.progress.bar is None else Bar("generations"))
        self.train = {each.name: job.pool(prepared.roles[each.name].train) for each in self.searches}
        self.val = {each.name: job.pool(prepared.roles[each.name].val) for each in self.searches}
        self.classes = {each.name: len(prepared.labels[each.name]) for each in self.searches}
        self.bank = Bank(recipe.tables["pathnet"], recipe.model.width, job.info["model"]["input_shape"])
        self.rows: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []

    def check(self) -> None:
        """Count the searches that the modules come from, so that this one draws otherwise than they did; what is impossible has
        been found while it was made."""
        if self.parent is not None:
            before = self.parent.info
            self.info["searches_before"] = before.get("searches_before", 0) + len(before["stages"])

    def fit(self) -> Run:
        """Search for all tasks, or those that are left.

        Returns:
            The finished run.

        Raises:
            DivergedError: a loss that is not finite.
            Interrupted: SIGTERM or Ctrl-C, after saving.
            ModelError: a frozen module has moved, or the run that gives the modules holds others.
            RunError: checkpoints that do not belong to this run.
            OutputError: the run folder cannot be written.
        """
        self.info["stages"] = []
        path: Path = ()
        if self.parent is not None:
            path = self.bank.take(self.parent.build())
        with delayed_signals() as flag:
            for number, search in enumerate(self.searches, 1):
                path = self._task(number, search, path, flag)
        self._finish(path)
        return Run.open(self.run_dir)

    def _task(self, number: int, search: Search, before: Path, flag: Flag) -> Path:
        folder = self.run_dir / "stages" / f"{number:02d}-{search.name}"
        marker = folder / "done.json"
        if not marker.exists():
            make_folder(self.run_dir, folder)
            result = _Task(self, number, search, folder, before, flag).run()
            write_done(marker, result)
        else:
            result = read_done(marker, search.name, done_facts(search.name, self.bank.settings))
            self.say(f"search {number} {search.name}: finished before, best path {path_text(result['path'])}")
        self.bank.restore(checkpoints.load(folder / result["best_file"]).arrays, folder / result["best_file"])
        self.rows = [row for row in self.rows if row["stage"] != search.name] + result.pop("rows")
        self.log = [row for row in self.log if row["search"] != search.name] + result.pop("log")
        self.info["stages"].append(result)
        self.write_tables([], [])
        write_events(self.run_dir / "events", self.rows)
        self._draw()
        return tuple(map(tuple, result["path"]))

    def write_tables(self, rows: list[dict[str, Any]], log: list[dict[str, Any]]) -> None:
        """history.csv and search.csv, with those of a search under way."""
        write_atomic(self.run_dir / "history.csv", table_text(HISTORY_COLUMNS, self.rows + rows))
        write_atomic(self.run_dir / SEARCH_FILE, table_text(SEARCH_COLUMNS, self.log + log))

    def _draw(self) -> None:
        from emotiw_keras.pathnet.search_charts import draw_fitness, draw_paths
        from emotiw_keras.training.curves import learning_curves

        settings = self.bank.settings
        learning_curves(self.run_dir / "history.csv", self.run_dir / "curves.png")
        draw_fitness(self.log, self.run_dir / "fitness.png")
        draw_paths(self.log, self.info["stages"], settings.layers, settings.modules, self.run_dir / "paths.png")

    def _finish(self, path: Path) -> None:
        model = self.bank.network(path)
        with atomic_path(self.run_dir / WEIGHTS_FILE) as temporary:
            check_room(temporary, weight_bytes(model))
            model.save_weights(temporary)
        self.info["model"]["options"] = self.bank.options(path)
        self.info["weights"] = {"sha256": sha256_file(self.run_dir / WEIGHTS_FILE), "variables": fingerprint(model)}
        self.info["finished"] = True
        write_info(self.run_dir, self.info)


class _Task:
    """One search under way."""

    def __init__(self, loop: SearchLoop, number: int, search: Search, folder: File, before: Path, flag: Flag) -> None:
        self.loop, self.number, self.search, self.folder, self.before, self.flag = loop, number, search, folder, before, flag
        images = loop.train[search.name]
        assert images is not None, search.name  # `check_roles` has refused it
        self.bank, self.pool, self.val = loop.bank, images, loop.val[search.name]
        # A run that an earlier version began counts from its own first search.
        self.seed = (int(loop.info["seed"]), number + loop.info.get("searches_before", 0))
        self.stream = Stream(self.pool, search, loop.face_input.room, self.seed)
        half = loop.info["precision"] == "mixed_bfloat16"
        self.steps = PathSteps(self.bank, loop.face_input, "bfloat16" if half else "float32")
        self.state = State()
        settings = self.bank.settings
        self.population = np.zeros((search.population, settings.layers, settings.active), np.int64)
        self.fitness = np.full(search.population, np.nan)

    def run(self) -> dict[str, Any]:
        """Search to the end; what is known of it, with its rows."""
        found = checkpoints.newest(self.folder, self.loop.say) if self.folder.exists() else None
        if found is None:
            self._begin()
        else:
            self._restore(found)
            self.loop.say(f"search {self.number} {self.search.name}: going on at generation {self.state.generation + 1}")
        saved = time.monotonic()
        per_trial = self.search.minibatches
        final = math.ceil(self.search.final_epochs * len(self.pool) / (self.search.batch_size * per_trial))
        while not self.state.ended or self.state.generation < self.state.ended + final:
            self._generation(final)
            due = self.state.generation % self.search.checkpoint_generations == 0
            if due or self.flag.number is not None or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
                self._stop_if_asked()
                saved = time.monotonic()
        return self._end()

    def _begin(self) -> None:
        """Modules, readout and population of a new task."""
        search, bank, settings = self.search, self.bank, self.bank.settings
        generator = self._generator(0, _POPULATION)
        population = evolution.draw_population(search.population, settings.layers, settings.modules, settings.active, generator)
        kept = np.zeros_like(bank.frozen)
        self._freeze()
        if search.start == "transfer":
            kept = bank.frozen
        if search.start == "finetune":
            for layer, genes in enumerate(self.before):
                kept[layer, list(genes)] = True
                # The same path from every draw: there is nothing to search for.
                population[:, layer] = np.resize(genes, settings.active)
        bank.initialise((*self.seed, _MODULES), kept)
        bank.new_readout(self.loop.classes[search.name], (*self.seed, _READOUT))
        self.population = population
        self.state.before = bank.digests(bank.frozen)
        told = {"new": "every module new", "transfer": f"{number_of(int(bank.frozen.sum()), 'modules')} frozen, the others new"}
        told["finetune"] = f"trains on along {path_text(self.before)}, no search"
        self.loop.say(
            f"search {self.number} {search.name}: "
            f"{number_of(len(self.pool), 'images')}, {told[search.start]}; {number_of(search.population, 'paths')} "
            f"of {settings.layers} x {settings.active} modules out of {settings.layers} x {settings.modules}, up to "
            f"{number_of(search.generations, 'generations')} of {search.tournament} x {search.minibatches} minibatches of "
            f"{search.batch_size}"
        )

    def _freeze(self) -> None:
        """The modules of the path before, beside those of earlier paths, where they are to be used; else none."""
        if self.search.start == "transfer":
            self.bank.freeze(self.before)
        else:
            self.bank.frozen[:] = False

    def _generator(self, generation: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64((*self.seed, generation, 7 + purpose)))

    def _generation(self, final: int) -> None:
        """A contest of paths; or, once the search has ended, the same number of minibatches of the best path alone."""
        state, search = self.state, self.search
        clock = time.monotonic()
        state.generation += 1
        generator = self._generator(state.generation, _CONTEST)
        if state.ended:
            kind, contestants = "final", np.array([state.best])
        else:
            kind = "finetune" if search.start == "finetune" else "search"
            contestants = evolution.draw_contestants(search.population, search.tournament, generator)
        trials = [self._trial(path_of(self.population[place])) for place in contestants]
        scores = [right for _, right in trials]
        best = int(np.argmax(scores))
        for place, (loss, score) in zip(contestants, trials, strict=True):
            state.log.append(
                {
                    "search": search.name,
                    "generation": state.generation,
                    "kind": kind,
                    "individual": int(place),
                    "path": path_text(path_of(self.population[place])),
                    "fitness": score,
                    "loss": loss,
                    "won": int(place == contestants[best]),
                    "minibatches": search.minibatches,
                }
            )
        if kind == "final":
            self.fitness[state.best] = scores[0]
        elif kind == "search":
            modules = self.bank.settings.modules
            state.last = evolution.contest(self.population, self.fitness, contestants, scores, modules, generator)
        elif kind == "finetune":
            # One path in all places: the score of its latest minibatches counts.
            self.fitness[:] = scores[-1]
            state.last, best = int(contestants[-1]), len(scores) - 1
        if not state.ended:
            reached = 0 < search.target <= scores[best]
            if reached or state.generation == search.generations:
                state.ended = state.generation
                state.best = evolution.best_of(self.fitness, state.last)
        images = len(trials) * search.minibatches * search.batch_size
        seconds = time.monotonic() - clock
        row = {
            "stage": search.name,
            "epoch": state.generation,
            "learning_rate": search.learning_rate,
            "loss": trials[best][0],
            "accuracy": scores[best],
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 2),
        }
        ends = bool(state.ended) and state.generation == state.ended + final
        every = search.validate_generations
        if self.val is not None and (ends or (every and state.generation % every == 0)):
            row |= self.steps.evaluate(self.val, self._best_path())
        state.rows.append(row)
        left = (state.ended or search.generations) + final - state.generation
        self.loop.progress.generation(self.loop.say, search.name, row, path_text(self._best_path()), left, ends)

    def _best_path(self) -> Path:
        place = self.state.best if self.state.ended else evolution.best_of(self.fitness, self.state.last)
        return path_of(self.population[place])

    def _trial(self, path: Path) -> tuple[float, float]:
        """Train a path on the next minibatches: its mean loss and its accuracy over them."""
        search, state, loss, right = self.search, self.state, 0.0, 0
        left = search.minibatches
        while left:
            count = min(left, self.stream.together)
            images, crops, labels = self.stream.minibatches(state.minibatches, count)
            here, hits = self.steps.trial(images, crops, labels, path, search.learning_rate)
            if not math.isfinite(here):
                raise DivergedError(
                    f"search {search.name!r} diverged: the loss is {here} in generation {state.generation}, along "
                    f"{path_text(path)}; lower learning_rate with --set, and start anew with --restart"
                )
            loss, right = loss + here, right + hits
            state.minibatches += count
            left -= count
        images_seen = search.minibatches * search.batch_size
        return loss / images_seen, right / images_seen

    def _end(self) -> dict[str, Any]:
        state, search, bank = self.state, self.search, self.bank
        path = self._best_path()
        bank.check_frozen(state.before, f"search {search.name!r}")
        reused = [[gene for gene in genes if bank.frozen[layer, gene]] for layer, genes in enumerate(path)]
        file = checkpoints.save(self.folder, f"best-g{state.generation:06d}", bank.arrays(), {})
        last = state.rows[-1]
        return {
            "name": search.name,
            "epochs": state.generation,
            "best_epoch": state.generation,
            "best_file": file.name,
            "start": search.start,
            "path": [list(genes) for genes in path],
            "reused": reused,
            "frozen": [np.flatnonzero(layer).tolist() for layer in bank.frozen],
            "generations": state.ended,
            "reached_target": bool(0 < search.target <= max(row["accuracy"] for row in state.rows[: state.ended])),
            "fitness": float(self.fitness[state.best]),
            "minibatches": state.minibatches,
            **{key: last.get(key) for key in ("val_accuracy", "val_loss")},
            "images": len(self.pool),
            "rows": state.rows,
            "log": state.log,
        }

    def _save(self) -> None:
        arrays = {**self.bank.arrays(), "population": self.population, "fitness": self.fitness}
        check_there(self.loop.run_dir)
        checkpoints.save(self.folder, f"e{self.state.generation:06d}-s000000", arrays, {"state": vars(self.state)})
        checkpoints.prune(self.folder, CHECKPOINTS_KEPT, set())
        self.loop.write_tables(self.state.rows, self.state.log)

    def _restore(self, found: checkpoints.Checkpoint) -> None:
        where, arrays, settings = f"checkpoint {found.path}", found.arrays, self.bank.settings
        self.state = checkpoints.restored(State, found)
        check_state(vars(self.state), self.search, settings, where)
        self._freeze()
        expected, classes = self.bank.frozen.copy(), self.loop.classes[self.search.name]
        facts = {
            "population": self.population.shape, "fitness": self.fitness.shape, "frozen": expected.shape,
            "readout/kernel": (None, classes), "readout/bias": (classes,),
        }  # fmt: skip
        check_arrays(arrays, facts, settings.modules, where)
        self.bank.restore(arrays, found.path)
        if not np.array_equal(self.bank.frozen, expected):
            raise RunError(f"{where} is damaged: other modules are frozen in it than the search before leaves so")
        self.population, self.fitness = arrays["population"].astype(np.int64), arrays["fitness"].astype(np.float64)

    def _stop_if_asked(self) -> None:
        if self.flag.number is not None:
            self.loop.progress.close()
            raise Interrupted(self.flag.number, f"stopped and saved; the same command goes on from {self.loop.run_dir}")
