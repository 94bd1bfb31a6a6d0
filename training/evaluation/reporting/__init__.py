"""Reports of evaluations: data for programs, pages in one file for people, and their figures. Measures nothing."""
