//! What the file system takes for its part.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::Instant,
};

use super::Times;

/// How long it takes to make 4 KiB durable that are written over others.
pub fn fdatasync(folder: &Path) -> Times {
    let mut room = tempfile::tempfile_in(folder).expect("a file");
    room.write_all(&[0; BLOCK * BLOCKS as usize]).expect("room");
    synced(room, |round| SeekFrom::Start(BLOCK as u64 * (round % BLOCKS)))
}

/// The same where the file grows by them.
pub fn fdatasync_of_growth(folder: &Path) -> Times {
    synced(tempfile::tempfile_in(folder).expect("a file"), |_| SeekFrom::End(0))
}

fn synced(mut file: File, place: impl Fn(u64) -> SeekFrom) -> Times {
    file.sync_all().expect("durable");
    let mut times = Times::new();
    for round in 0..200 {
        file.seek(place(round)).expect("a place");
        file.write_all(&[7; BLOCK]).expect("written");
        let began = Instant::now();
        file.sync_data().expect("durable");
        times.record(began.elapsed());
    }
    times
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;
