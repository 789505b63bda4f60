//! Tests that need something from outside are counted as ignored, with the reason, where it is missing: they are
//! compiled as such unless the environment variable that leads to it is set.

fn main() {
    for (variable, cfg) in
        [("FEDGESTALT_OPENVINO", "has_openvino"), ("FEDGESTALT_ONNXRUNTIME", "has_onnxruntime")]
    {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        if std::env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
}
