"""PathNet's search for paths, and their transfer from task to task (Fernando et al. 2017)."""
