//! Compiles `src/ppoll.c`, which QEMU loads, to a shared object that becomes data of this crate (`clock.rs`).

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=src/ppoll.c");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join("ppoll.so");
    let mut compiler =
        cc::Build::new().opt_level(2).warnings(true).warnings_into_errors(true).get_compiler().to_command();
    let status = compiler.args(["-fPIC", "-shared", "src/ppoll.c", "-o"]).arg(&out).status();
    assert!(
        status.is_ok_and(|s| s.success()),
        "src/ppoll.c could not be compiled; hint: apt-get install gcc libc6-dev"
    );
}
