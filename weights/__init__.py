"""Weight files: where they come from, under which terms, and how to know that one is the right one."""
