# Completion of dibctl for fish, loaded when dibctl is first completed.
dibctl completion fish | source
