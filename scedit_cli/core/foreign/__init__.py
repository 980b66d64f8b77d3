"""Tuner files of other SCEdit implementations, read and written. They are told apart by their keys; all sizes are
read off the shapes.

Known layouts, N counting in decoder order and I in encoder order:

- scepter, SC: `model.lsc_identity.N.tuner_op.ln1|ln2.*`
- scepter, CSC: `pre_hint_blocks.*`, `dense_hint_blocks.I.1.*`, `lsc_tuner_blocks.N.tuner_op.ln1|ln2.*`, with or without
  `model.` and the tuner's number before them; several numbers are several conditions
- ms-swift, identity: as scepter SC with `scetuner_<name>.` before `tuner_op`; what scepter's studio keeps
- ms-swift, decoder: `up_blocks.B.resnets.K.scetuner_<name>.tuner_op.ln1|ln2.*`
- scedit-pytorch: `up_blocks.B.sc_tuners.K.down|up.*`
"""
