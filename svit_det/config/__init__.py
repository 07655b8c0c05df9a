"""Config keys, made from declarations, read from yaml and checked. The same for every task.

The package needs fvcore's CfgNode only; detectron2's CfgNode is a subclass of it.
"""
