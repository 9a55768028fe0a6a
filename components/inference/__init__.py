"""Using what was trained: answers for a file of prompts, scores for a file of answers, a conversation.

`load` finds a model and loads it, `rows` reads what it is to answer or to judge, `output` writes a file that an
interrupted command goes on with; `generate`, `score` and `chat` are the commands.
"""
