"""Questions about an `onnx_ir.Model`; nothing here changes one."""
