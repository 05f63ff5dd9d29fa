"""What the package has of the command beside its code: the manual page and the completions, made when it is built."""
