//! fuzzing

/// What the kernel prints about a process is parsed without a panic, whatever it is (W-11).
pub fn proc_text(data: &[u8]) {
    let _ = crate::attest::proc_text::status(data);
    let _ = crate::attest::proc_text::start_time(data);
}
