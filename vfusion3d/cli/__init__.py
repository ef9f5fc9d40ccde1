"""The commands of `vfusion3d`: each is one `add_...` (its page of help) and one `run_...` (a few calls).

Heavy imports wait until a command runs, so help is instant.
"""
