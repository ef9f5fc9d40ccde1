"""What a run is: the profile, its folders, what a folder was made with, progress bars."""
