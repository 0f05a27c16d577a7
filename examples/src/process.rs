//! A program that was started: its output line by line, its signals, its end. Every wait is for an event and has a
//! deadline.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running program. It is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// Why a wait ended without what it waited for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The deadline came first.
    #[error("`{name}` did not {what} within {within:?}; it printed:\n{printed}")]
    TooLate {
        /// The program.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// Both its outputs so far.
        printed: String,
    },
    /// The program ended first.
    #[error("`{name}` ended before it could {what}; it printed:\n{printed}")]
    Ended {
        /// The program.
        name: String,
        /// What was waited for.
        what: String,
        /// Both its outputs.
        printed: String,
    },
    /// The system refused.
    #[error("`{name}`: {source}")]
    System {
        /// The program.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    /// Of the two outputs, how many have come to their end.
    closed: u8,
}

impl Process {
    /// Starts `command` with no standard input and both outputs read from here on.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, ProcessError> {
        Self::spawn(name, command.stdin(Stdio::null()))
    }

    /// The same, with a standard input that the caller writes.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start_with_input(name: &str, command: &mut Command) -> Result<(Self, ChildStdin), ProcessError> {
        let mut process = Self::spawn(name, command.stdin(Stdio::piped()))?;
        let missing = || ProcessError::System { name: name.to_owned(), source: io::ErrorKind::BrokenPipe.into() };
        let stdin = process.child.stdin.take().ok_or_else(missing)?;
        Ok((process, stdin))
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self, ProcessError> {
        let system = |source| ProcessError::System { name: name.to_owned(), source };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(system)?;
        let output = Arc::new(Output::default());
        follow(child.stdout.take(), &output);
        follow(child.stderr.take(), &output);
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line for which `wanted` has an answer; lines printed before the call count.
    ///
    /// # Errors
    /// The deadline, or the program's end, came first.
    pub fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, ProcessError> {
        let mut seen = 0;
        let mut found = None;
        let state = self.output.wait(within, |state| {
            found = state.lines.iter().skip(seen).find_map(|line| wanted(line));
            seen = state.lines.len();
            found.is_some() || state.closed == 2
        });
        let (name, what, printed) = (self.name.clone(), what.to_owned(), state.lines.join("\n"));
        match found {
            Some(found) => Ok(found),
            None if state.closed == 2 => Err(ProcessError::Ended { name, what, printed }),
            None => Err(ProcessError::TooLate { name, what, within, printed }),
        }
    }

    /// Waits for the line by which our programs say that they are ready, and gives the named value out of it.
    ///
    /// # Errors
    /// The deadline, or the program's end, came first.
    pub fn ready(&self, value: &str, within: Duration) -> Result<String, ProcessError> {
        self.wait_for("become ready", within, |line| value_of(line.strip_prefix("ready ")?, value))
    }

    /// What it has printed so far, both outputs line by line.
    pub fn printed(&self) -> Vec<String> {
        self.output.lock().lines.clone()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has been waited for already.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, signal).map_err(|errno| ProcessError::System { name: self.name.clone(), source: errno.into() })
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn stop(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGTERM)?;
        self.ended(within)
    }

    /// Ends it without a warning (SIGKILL) and waits.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGKILL)?;
        self.ended(Duration::from_secs(10))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn ended(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let closed = self.output.wait(within, |state| state.closed == 2).closed == 2;
        let (name, printed) = (self.name.clone(), self.printed().join("\n"));
        if !closed {
            return Err(ProcessError::TooLate { name, what: "end".to_owned(), within, printed });
        }
        self.child.wait().map_err(|source| ProcessError::System { name, source })
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({}, {})", self.name, self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or ended now: there is nothing to do about a refusal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, within: Duration, mut enough: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), within, |state| !enough(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

fn follow(from: Option<impl Read + Send + 'static>, output: &Arc<Output>) {
    let output = output.clone();
    thread::spawn(move || {
        let mut reader =
            BufReader::new(from.map(|from| Box::new(from) as Box<dyn Read>).unwrap_or(Box::new(io::empty())));
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            output.change(|state| state.lines.push(text));
        }
        output.change(|state| state.closed += 1);
    });
}

/// `name=VALUE` among the words of a line.
pub fn value_of(line: &str, name: &str) -> Option<String> {
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name).chain(command.get_args()).map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=,@%+".contains(c));
    if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
