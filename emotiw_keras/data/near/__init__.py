"""Near duplicates: the same photograph cut, shifted, scaled, mirrored, marked or encoded otherwise.

An embedding proposes pairs (`embedding`, `search`), an aligned correlation decides (`alignment`), groups follow (`groups`).
"""
