"""The student and its teacher behind one URL: who answers, and how that is said."""
