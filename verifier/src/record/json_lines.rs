//! Records as lines of JSON in a file that is rotated.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Record, RecordSink};

/// A file of records, one JSON object a line, that a thread of its own writes. Dropping the last clone writes what is left.
#[derive(Clone)]
pub struct JsonLines(Arc<Shared>);

/// Bounds of [`JsonLines`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JsonLinesOptions {
    /// Bytes after which a file is put aside as `FILE.1` and a new one begun. Default: 64 MiB.
    pub file_bytes: u64,
    /// Files kept beside the present one; the oldest goes. Default: 8.
    pub files: u32,
    /// Lines that may wait for the disk. When so many wait, further allowances are dropped and counted; refusals and what rules
    /// want audited may wait eight times as many, then they are dropped and counted, too: a flood must not fill the memory.
    /// Default: 8,192.
    pub waiting: usize,
}

impl Default for JsonLinesOptions {
    fn default() -> Self {
        Self { file_bytes: 64 * 1024 * 1024, files: 8, waiting: 8192 }
    }
}

struct Shared {
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    path: PathBuf,
    options: JsonLinesOptions,
    lines: Mutex<Lines>,
    wake: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<String>,
    closed: bool,
    /// Lines that are taken and not written yet.
    in_hand: bool,
}

/// How many times more of what must be written may wait.
const MUST_FACTOR: usize = 8;

impl JsonLines {
    /// Opens or creates the file, mode 0600, and starts the thread that writes it.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread started.
    pub fn open(path: impl Into<PathBuf>, options: JsonLinesOptions) -> io::Result<Self> {
        let path = path.into();
        let file = Current::open(&path)?;
        let queue =
            Arc::new(Queue { path, options, lines: Mutex::default(), wake: Condvar::new(), lost: AtomicU64::new(0) });
        let own = Arc::clone(&queue);
        let writer = thread::Builder::new().name("decision-records".to_owned()).spawn(move || own.write(file))?;
        Ok(Self(Arc::new(Shared { queue, writer: Mutex::new(Some(writer)) })))
    }

    /// Records that were not written: too many waited, or the disk took none. Belongs in a metric.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.queue.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was recorded before is in the file. Blocks.
    pub fn flush(&self) {
        let mut lines = self.0.queue.lock();
        while !lines.waiting.is_empty() || lines.in_hand {
            lines = self.0.queue.wake.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl RecordSink for JsonLines {
    fn record(&self, record: &Record<'_>) {
        let queue = &self.0.queue;
        let most = queue.options.waiting.saturating_mul(if record.is_always_written() { MUST_FACTOR } else { 1 });
        if queue.lock().waiting.len() >= most {
            queue.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Nothing in a record can fail to be written as JSON; if it did, it would be counted.
        let Ok(mut line) = serde_json::to_string(record) else {
            queue.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        line.push('\n');
        queue.lock().waiting.push_back(line);
        queue.wake.notify_all();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It only writes what is left; a panic of its has been told on standard error.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines").field("path", &self.0.queue.path).field("lost", &self.lost()).finish()
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut file: Current) {
        let mut batch = VecDeque::new();
        loop {
            let mut lines = self.lock();
            lines.in_hand = false;
            self.wake.notify_all();
            while lines.waiting.is_empty() {
                if lines.closed {
                    return;
                }
                lines = self.wake.wait(lines).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut lines.waiting, &mut batch);
            lines.in_hand = true;
            drop(lines);
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let text: String = batch.drain(..).collect();
            if let Err(error) = file.append(&text, &self.path, &self.options) {
                let before = self.lost.fetch_add(count, Ordering::Relaxed);
                if before == 0 {
                    // Once: a full disk would be told at each batch, and `lost` goes on counting.
                    tracing::error!(path = %self.path.display(), %error, "decision records cannot be written and are lost");
                }
            }
        }
    }
}

/// The file that is being written.
struct Current {
    file: File,
    bytes: u64,
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    fn append(&mut self, text: &str, path: &Path, options: &JsonLinesOptions) -> io::Result<()> {
        if self.bytes > 0 && self.bytes.saturating_add(text.len() as u64) > options.file_bytes {
            rotate(path, options.files)?;
            *self = Self::open(path)?;
        }
        self.file.write_all(text.as_bytes())?;
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        Ok(())
    }
}

/// `FILE` becomes `FILE.1`, that `FILE.2`, and so on; the last one goes.
fn rotate(path: &Path, files: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let gone_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if files == 0 {
        return gone_is_fine(fs::remove_file(path));
    }
    for number in (1..files).rev() {
        gone_is_fine(fs::rename(numbered(number), numbered(number + 1)))?;
    }
    gone_is_fine(fs::rename(path, numbered(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        record::{Outcome, RecordedOperation},
    };

    fn record(outcome: Outcome) -> Record<'static> {
        Record::new(Timestamp::default(), RecordedOperation::Connection, outcome, "")
    }

    #[test]
    fn every_line_is_an_object_and_files_are_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let options = JsonLinesOptions { file_bytes: 200, files: 2, ..Default::default() };
        let lines = JsonLines::open(&path, options).unwrap();
        for _ in 0..20 {
            lines.record(&record(Outcome::Denied));
            lines.flush();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2"]);
        for name in names {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.len() <= 200);
            for line in text.lines() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["outcome"], "denied");
            }
        }
        assert_eq!(lines.lost(), 0);
    }

    #[test]
    fn what_is_recorded_before_the_end_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let lines = JsonLines::open(&path, JsonLinesOptions::default()).unwrap();
        for _ in 0..1000 {
            lines.record(&record(Outcome::Allowed));
        }
        drop(lines);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1000);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_counted() {
        let lines = JsonLines::open("/dev/full", JsonLinesOptions::default()).unwrap();
        lines.record(&record(Outcome::Denied));
        lines.flush();
        assert_eq!(lines.lost(), 1);
    }

    #[test]
    fn t_29_waiting_lines_are_bounded_and_refusals_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue {
            path: folder.path().join("x"),
            options: JsonLinesOptions { waiting: 2, ..Default::default() },
            lines: Mutex::default(),
            wake: Condvar::new(),
            lost: AtomicU64::new(0),
        };
        // No thread writes here.
        let lines = JsonLines(Arc::new(Shared { queue: Arc::new(queue), writer: Mutex::new(None) }));
        for _ in 0..5 {
            lines.record(&record(Outcome::Allowed));
        }
        assert_eq!(lines.lost(), 3);
        for _ in 0..20 {
            lines.record(&record(Outcome::Denied));
        }
        assert_eq!((lines.lost(), lines.0.queue.lock().waiting.len()), (3 + 20 - 14, 16));
    }
}
