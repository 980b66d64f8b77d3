"""Reading and writing of other SCEdit implementations' tuner files. Their keys identify the layout, and all sizes are
read off the shapes.

Known layouts, N counting in decoder order and I in encoder order:

- scepter, SC: `model.lsc_identity.N.tuner_op.ln1|ln2.*`
- scepter, CSC: `pre_hint_blocks.*`, `dense_hint_blocks.I.1.*`, `lsc_tuner_blocks.N.tuner_op.ln1|ln2.*`, with or without
  `model.` and the tuner's number before them; several numbers are several conditions
- ms-swift, identity: as scepter SC with `scetuner_<name>.` before `tuner_op`; scepter's studio keeps such files
- ms-swift, decoder: `up_blocks.B.resnets.K.scetuner_<name>.tuner_op.ln1|ln2.*`
- scedit-pytorch: `up_blocks.B.sc_tuners.K.down|up.*`
"""
