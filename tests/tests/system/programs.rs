//! Two example services that call each other, and a loop of calls between them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, SOON, Site};
use serde_json::Value;

pub(crate) const WEB: &str = "spiffe://example.org/web";
pub(crate) const PHOTO: &str = "spiffe://example.org/photo";

/// `web` calls `photo`; both have their identities from one node.
pub(crate) struct Shop {
    pub(crate) photo: Process,
    /// Where photo listens, with mutual TLS.
    pub(crate) photo_address: String,
    pub(crate) web: Process,
    /// Where web listens, in clear text.
    pub(crate) web_address: String,
}

impl Shop {
    /// Registers both and starts them.
    pub(crate) fn open(site: &Site, node: &Node, ttl: &str) -> Self {
        site.add_program("photo", &site.programs.photo, &["--on", &node.name, "--ttl", ttl]);
        site.add_program("web", &site.programs.web, &["--on", &node.name, "--ttl", ttl]);
        Self::start(site, node)
    }

    /// Starts both; they are registered already.
    pub(crate) fn start(site: &Site, node: &Node) -> Self {
        let (photo, photo_address) = start_photo(site, node, WEB);
        let (web, web_address) = start_web(node, &site.programs.web, &photo_address, PHOTO);
        Self { photo, photo_address, web, web_address }
    }

    /// One call of web, which asks photo.
    pub(crate) fn call(&self) -> Result<Value, String> {
        get(&self.web_address)
    }
}

/// Starts photo for one caller; gives its address.
pub(crate) fn start_photo(site: &Site, node: &Node, caller: &str) -> (Process, String) {
    let photo = Process::start("photo", node.workload(&site.programs.photo).args(["--caller", caller])).unwrap();
    let address = photo.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
    (photo, address)
}

/// Starts web, or a copy of it, before the server at `address`; gives its own address.
pub(crate) fn start_web(node: &Node, program: &Path, address: &str, expected: &str) -> (Process, String) {
    let mut command = node.workload(program);
    command.args(["--photos", &format!("https://{address}"), "--photo-id", expected]);
    let web = Process::start("web", &mut command).unwrap();
    let address = web.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
    (web, address)
}

/// A program of its own with the same content: another path, so another identity. Copied by a process of its own: a
/// file open for writing here is inherited by what another test starts meanwhile, and cannot be run until then.
pub(crate) fn copy_of(program: &Path, to: PathBuf) -> PathBuf {
    assert!(Command::new("cp").arg(program).arg(&to).status().unwrap().success());
    to
}

/// GET / in clear text; the answer's JSON if it is 200, else what it said.
pub(crate) fn get(address: &str) -> Result<Value, String> {
    let answer = raw_get(address).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {answer}"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(body.to_owned());
    }
    serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
}

fn raw_get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Calls in a row, a hundred a second, until it is finished; it remembers what failed and which certificates were seen.
pub(crate) struct Load {
    shared: Arc<(Mutex<Seen>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How many calls were answered.
    pub(crate) answered: u64,
    /// What the others said.
    pub(crate) failed: Vec<String>,
    /// The ends of the caller's certificates, in order of their first use.
    pub(crate) certificates: Vec<String>,
}

impl Load {
    pub(crate) fn start(address: &str) -> Self {
        let shared = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped, address) = (shared.clone(), stop.clone(), address.to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let outcome = get(&address);
                let mut state = seen.0.lock().unwrap();
                match outcome {
                    Ok(answer) => {
                        state.answered += 1;
                        let until = answer["until"].as_str().unwrap_or_default().to_owned();
                        if state.certificates.last() != Some(&until) {
                            state.certificates.push(until);
                        }
                    }
                    Err(error) => state.failed.push(error),
                }
                drop(state);
                seen.1.notify_all();
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { shared, stop, thread: Some(thread) }
    }

    /// Waits until it is so, within a minute or two.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
        let state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, waited) = self.shared.1.wait_timeout_while(state, 2 * SOON, |seen| !enough(seen)).unwrap();
        assert!(!waited.timed_out(), "not in time: {what}; {:?}", *state);
        state.clone()
    }

    /// Waits for so many new certificates of the caller.
    #[track_caller]
    pub(crate) fn until_renewed(&self, times: usize) -> Seen {
        let from = self.seen().certificates.len().max(1);
        self.until("renewals", |seen| seen.certificates.len() >= from + times)
    }

    /// Waits for so many more answers.
    #[track_caller]
    pub(crate) fn until_answered(&self, more: u64) -> Seen {
        let from = self.seen().answered;
        self.until("answers", |seen| seen.answered >= from + more)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the calls; none may have failed.
    #[track_caller]
    pub(crate) fn none_failed(mut self) -> Seen {
        self.end();
        let seen = self.seen();
        assert!(
            seen.failed.is_empty(),
            "{} of {} calls failed: {:?}",
            seen.failed.len(),
            seen.answered,
            seen.failed.first()
        );
        assert!(seen.answered > 0);
        seen
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// `openssl …`, which must be there.
pub(crate) fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}
