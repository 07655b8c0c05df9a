"""Config keys from declarations: made, read from yaml, checked. The same for every task.

fvcore's CfgNode is all that it needs; detectron2's is a kind of it.
"""
