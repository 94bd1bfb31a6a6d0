"""What a run keeps of its base model beside the task: general questions, the base's own answers, and rows of them.

Knows how many, how much they count and in which order; the base is the teacher. Takes no step.
"""
