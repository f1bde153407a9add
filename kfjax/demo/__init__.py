"""`kfjax demo`: a web page that makes sound for the clips and prompts of its visitors.

studio.py    what may be asked for, what is made and kept for whom, what is deleted when; knows nothing of the page
gate.py      what may be reached over the network at all
page.py      the page itself, in Gradio
__main__.py  the command: model, server, end
"""
