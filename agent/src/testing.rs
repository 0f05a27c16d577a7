//! What tests of attestation and of the Workload API share: real processes that connect, change user, execute
//! something else, hand their connection on and end, when told to.

pub(crate) mod ca;
pub(crate) mod client;

use std::{
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

/// A directory for sockets and programs that every user can reach.
pub(crate) fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    directory
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Some cases take two users, or a mount. `true`: this process is root, go on. `false`: it is not, and the calling test has been run
/// by root in a process of its own (`sudo -n`), and passed there. Without `sudo` it fails and says so, rather than be passed over.
pub(crate) fn by_root(case: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let again = std::env::var_os(BY_ROOT).is_some();
    assert!(!again, "{case} takes processes of two users, and `sudo -n` did not make this process root's");
    let thread = std::thread::current();
    // The harness names a test's thread by the test.
    let test = thread.name().expect("a test's thread has its name");
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "env", &format!("{BY_ROOT}=1")]).arg(std::env::current_exe().unwrap());
    let run = sudo.args([test, "--exact", "--nocapture", "--test-threads=1"]).output();
    let run = run
        .unwrap_or_else(|error| panic!("{case} takes processes of two users: run it as root, or with sudo: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{case}, run by root: {said}");
    false
}

const BY_ROOT: &str = "BONAFIDE_TEST_BY_ROOT";

/// A user that is neither root nor anyone else here.
pub(crate) const OTHER_UID: u32 = 54_321;
pub(crate) const OTHER_GID: u32 = 54_322;

/// A process that does what it is told, line by line.
pub(crate) struct Helper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    /// The test's own binary, started again to be a helper.
    pub(crate) fn start(socket: &Path) -> Helper {
        Helper::start_by(Command::new(std::env::current_exe().unwrap()), socket)
    }

    /// By a command that ends in the helper's binary, such as `unshare … BINARY`.
    pub(crate) fn start_by(mut command: Command, socket: &Path) -> Helper {
        let mut child = command
            .args(["testing::helper_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(SOCKET, socket)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut helper = Helper { child, orders, answers };
        assert_eq!(helper.answer(), "ready");
        helper
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Tells it to do something, and waits until it says what came of it.
    pub(crate) fn order(&mut self, order: &str) -> String {
        self.send(order);
        self.answer()
    }

    /// Tells it to do something that it will not answer.
    pub(crate) fn send(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            if self.answers.buffer().is_empty() {
                assert!(readable(self.answers.get_ref()), "the helper does not answer");
            }
            assert_ne!(self.answers.read_until(b'\n', &mut line).unwrap(), 0, "the helper has ended");
            let line = String::from_utf8_lossy(&line).into_owned();
            // The test harness prints its own lines around, and before on the same line.
            if let Some((_, answer)) = line.split_once('@') {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Waits until it has ended and is reaped.
    pub(crate) fn wait(mut self) {
        assert!(self.has_ended(), "the helper does not end");
        self.child.wait().unwrap();
    }

    /// Within the deadline.
    fn has_ended(&self) -> bool {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        pidfd.is_ok_and(|pidfd| readable(&pidfd))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends at the end of its orders, too: a test that has given up its privileges may not kill it.
        drop(self.orders.take());
        drop(self.child.kill());
        if self.has_ended() {
            drop(self.child.wait());
        }
    }
}

/// Whether there is something to read, or its end, within a deadline that no healthy case comes near.
fn readable(fd: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Timespec { tv_sec: 30, tv_nsec: 0 };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&deadline)).is_ok_and(|ready| ready > 0)
}

/// The test's own binary under another path.
pub(crate) fn copy_of_helper(to: &Path) -> PathBuf {
    copy_of(&std::env::current_exe().unwrap(), to);
    set_mode(to, 0o755);
    to.to_owned()
}

/// Copies a program, by a process of its own: a file open for writing here is inherited by what another test starts
/// meanwhile, and until that has closed it the copy cannot be run ("text file busy").
pub(crate) fn copy_of(program: &Path, to: &Path) {
    assert!(Command::new("cp").arg(program).arg(to).status().unwrap().success());
}

/// Not a test: what [`Helper`] starts. Ends at once when run as one.
#[test]
fn helper_process() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    // A helper that is itself an agent, in a namespace of its own.
    if let Some(case) = std::env::var_os(CASE) {
        crate::attest::tests::in_namespace(case.to_str().unwrap(), Path::new(&socket));
        return;
    }
    let mut connection: Option<UnixStream> = None;
    let mut children = Vec::new();
    let mut exchanging = None;
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (order, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let number = || argument.parse::<u32>().unwrap();
        match order {
            "connect" => {
                let stream = UnixStream::connect(&socket).unwrap();
                fcntl(&stream, FcntlArg::F_SETFD(FdFlag::empty())).unwrap(); // survives `exec`
                connection = Some(stream);
            }
            "groups" => {
                let groups: Vec<Gid> = argument.split(',').map(|gid| Gid::from_raw(gid.parse().unwrap())).collect();
                setgroups(&groups).unwrap();
            }
            "gid" => {
                let gid = Gid::from_raw(number());
                setresgid(gid, gid, gid).unwrap();
            }
            "uid" => {
                let uid = Uid::from_raw(number());
                setresuid(uid, uid, uid).unwrap();
            }
            // Another process goes on with the connection.
            "hand-on" => {
                let fd: OwnedFd = connection.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
                let child = Command::new("sleep").arg("1000").stdin(fd).stdout(Stdio::null()).spawn().unwrap();
                say(&child.id().to_string());
                children.push(child);
                continue;
            }
            "exec" => panic!("{}", Command::new(argument).arg("1000").exec()),
            "exec-memfd" => {
                let memory = rustix::fs::memfd_create("photo", rustix::fs::MemfdFlags::empty()).unwrap();
                std::fs::File::from(memory.try_clone().unwrap()).write_all(&std::fs::read(argument).unwrap()).unwrap();
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
                panic!("{}", Command::new(path).arg("1000").exec());
            }
            "name" => std::fs::write("/proc/self/comm", std::ffi::OsStr::new(argument).as_bytes()).unwrap(),
            "call" => {
                say(&crate::workload_api::tests::call_by_name(Path::new(&socket), argument));
                continue;
            }
            "watch" => {
                crate::workload_api::tests::watch(socket.clone().into(), say);
                continue;
            }
            "exchange" => {
                let start = || crate::workload_api::tests::exchange(socket.clone().into(), say);
                exchanging.get_or_insert_with(start).send(()).unwrap();
                continue;
            }
            // As many connections as are not closed at once.
            "flood" => {
                let opened: Vec<UnixStream> = (0..number()).map_while(|_| UnixStream::connect(&socket).ok()).collect();
                say(&still_open(opened).to_string());
                continue;
            }
            "exit" => std::process::exit(0),
            other => panic!("no order `{other}`"),
        }
        say("done");
    }
}

/// Waits until the other side has dealt with all of them, which the last of them shows, and counts.
fn still_open(connections: Vec<UnixStream>) -> usize {
    use std::io::Read;
    let closed = |connection: &mut UnixStream| matches!(connection.read(&mut [0; 64]), Ok(0) | Err(_));
    let mut count = 0;
    let mut connections = connections;
    for connection in &mut connections {
        // HTTP/2: the server speaks first, with its settings, or hangs up. None is closed here before all are counted: that
        // would make room.
        connection.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        count += usize::from(!closed(connection));
    }
    count
}

fn say(text: &str) {
    println!("@{text}");
    std::io::stdout().flush().unwrap();
}

/// A listener and the next connection to it.
pub(crate) fn listen(directory: &Path) -> (PathBuf, UnixListener) {
    let path = directory.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    set_mode(&path, 0o666);
    (path, listener)
}

const SOCKET: &str = "BONAFIDE_TEST_HELPER_SOCKET";
/// What a helper in a namespace of its own is to show.
pub(crate) const CASE: &str = "BONAFIDE_TEST_HELPER_CASE";

/// Whether this is a process that runs nothing but `test`; if not, one is started and must succeed. For tests that look at the
/// process as a whole, to which others that run beside them would add.
pub(crate) fn is_alone(test: &str) -> bool {
    const ALONE: &str = "BONAFIDE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    let output = itself.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
    false
}
