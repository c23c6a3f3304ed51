//! Compiles what becomes data of this crate: `src/ppoll.c`, which QEMU loads, to a shared object (`clock.rs`), and
//! `src/accel.S`, a firmware, to the bytes of its ROM (`accel.rs`).

use std::path::PathBuf;

fn main() {
    compile("src/ppoll.c", "ppoll.so", &["-fPIC", "-shared"]);
    compile(
        "src/accel.S",
        "accel.rom",
        &["-nostdlib", "-static", "-no-pie", "-Wl,--oformat=binary,-Ttext=0,--build-id=none"],
    );
}

fn compile(source: &str, to: &str, options: &[&str]) {
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join(to);
    let mut compiler =
        cc::Build::new().opt_level(2).warnings(true).warnings_into_errors(true).get_compiler().to_command();
    let status = compiler.args(options).arg(source).arg("-o").arg(&out).status();
    assert!(status.is_ok_and(|s| s.success()), "{source} could not be compiled; hint: apt-get install gcc libc6-dev");
}
