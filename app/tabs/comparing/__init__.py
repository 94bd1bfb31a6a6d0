"""What Compare is made of beside its panes and its message box: conversations, votes, samples, a part a file.

A part builds its components and handles their events. All of them show the conversation through `stage`.
"""
