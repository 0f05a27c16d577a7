//! Attestation of real processes: the situations W-01 to W-12, each way of binding a connection to its process.

use std::{
    os::unix::{fs::MetadataExt, net::UnixListener, process::CommandExt},
    path::Path,
    process::Command,
    time::Duration,
};

use bonafide_verifier::{clock::SystemClock, spiffe::TrustDomain};

use super::*;
use crate::testing::{
    CASE, Helper, OTHER_GID, OTHER_UID, by_root, copy_of, copy_of_helper, listen, open_directory, set_mode,
};

fn attestor() -> Attestor {
    attestor_with(ExecutableLimits::default())
}

fn attestor_with(limits: ExecutableLimits) -> Attestor {
    Attestor::new(limits, NameLimits::default(), Arc::new(HostNames), Arc::new(SystemClock))
}

fn accept(listener: &UnixListener, binding: Binding) -> Result<Peer, PeerError> {
    let (stream, _) = listener.accept().unwrap();
    Peer::of(&stream, binding)
}

async fn all(peer: &Peer) -> Result<Facts, PeerError> {
    attestor().attest_with(peer, Needs::ALL).await
}

fn needs_pidfd() {
    assert_eq!(
        Binding::detect(false).unwrap(),
        Binding::PeerPidfd,
        "this test takes a kernel with SO_PEERPIDFD (Linux 6.5)"
    );
}

/// Waits, without a guess at how long, until `condition` holds.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn facts_of_a_living_process_by_every_binding() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    for binding in [Binding::PeerPidfd, Binding::ByPid, Binding::UserOnly] {
        let mut helper = Helper::start(&socket);
        assert_eq!(helper.order("connect"), "done");
        let peer = accept(&listener, binding).unwrap();
        let facts = all(&peer).await.unwrap();
        assert_eq!((facts.uid, facts.pid), (nix::unistd::geteuid().as_raw(), helper.pid()), "{binding:?}");
        let full = binding != Binding::UserOnly;
        let path = full.then(|| own.to_str().unwrap().to_owned());
        assert_eq!(facts.path, path, "{binding:?}: {:?}", facts.notes);
        assert_eq!(facts.sha256.is_some(), full, "{binding:?}: {:?}", facts.notes);
        assert_eq!(facts.executable.is_some(), full);
        assert_eq!(facts.notes.iter().any(|note| note == USER_ONLY), !full);
        if full {
            let printed = Command::new("sha256sum").arg(&own).output().unwrap().stdout;
            assert!(printed.starts_with(facts.sha256.unwrap().as_bytes()), "the hash is that of sha256sum");
        }
    }
}

#[tokio::test]
async fn w_01_another_executable_is_another_identity() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    for binding in [Binding::PeerPidfd, Binding::ByPid] {
        let mut helper = Helper::start(&socket);
        helper.order("connect");
        let peer = accept(&listener, binding).unwrap();
        let before = all(&peer).await.unwrap();
        helper.send("exec /bin/sleep");
        until(async || all(&peer).await.unwrap().executable != before.executable).await;
        let after = all(&peer).await.unwrap();
        assert_eq!(after.pid, before.pid, "the same process, alive all the time");
        assert_ne!(after.path, before.path, "facts are those of now, not of the connection");
        assert_ne!(after.sha256, before.sha256);
    }
}

#[tokio::test]
async fn w_01_a_rewritten_executable_is_another_identity() {
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let program = copy_of_helper(&directory.path().join("photo"));
    let mut helper = Helper::start_by(Command::new(&program), &socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    let before = all(&peer).await.unwrap();
    assert_eq!(before.path.as_deref(), program.to_str());
    set_mode(&program, 0o700); // the change time is the kernel's: no one can set it back
    let after = all(&peer).await.unwrap();
    assert_ne!(after.executable, before.executable);
}

#[tokio::test]
async fn w_02_connect_as_one_user_and_become_another() {
    if !by_root("W-02") {
        return;
    }
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    for binding in [Binding::PeerPidfd, Binding::ByPid] {
        let mut helper = Helper::start(&socket);
        helper.order("connect");
        let peer = accept(&listener, binding).unwrap();
        assert!(all(&peer).await.is_ok());
        helper.order(&format!("uid {OTHER_UID}"));
        let error = all(&peer).await.unwrap_err();
        assert!(matches!(error, PeerError::ChangedUser { connected_uid: 0, uid: OTHER_UID, .. }), "{error}");
        // A connection made afterwards is that user's.
        helper.order("connect");
        assert_eq!(all(&accept(&listener, binding).unwrap()).await.unwrap().uid, OTHER_UID);
    }
}

#[tokio::test]
async fn w_12_groups_are_those_of_now_and_a_change_of_group_is_refused() {
    if !by_root("W-12") {
        return;
    }
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let mut helper = Helper::start(&socket);
    helper.order("groups 7,54325");
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    assert_eq!(all(&peer).await.unwrap().supplementary_gids, [7, 54325]);
    helper.order("groups 8");
    assert_eq!(all(&peer).await.unwrap().supplementary_gids, [8]);
    helper.order(&format!("gid {OTHER_GID}"));
    let error = all(&peer).await.unwrap_err();
    assert!(matches!(error, PeerError::ChangedUser { gid: OTHER_GID, .. }), "{error}");
}

#[tokio::test]
async fn w_03_the_connection_outlives_its_process() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    for binding in [Binding::PeerPidfd, Binding::ByPid] {
        let mut helper = Helper::start(&socket);
        helper.order("connect");
        let peer = accept(&listener, binding).unwrap();
        let heir: i32 = helper.order("hand-on").parse().unwrap();
        // W-05: while the one who connected lives, it answers for whoever holds the connection.
        assert!(all(&peer).await.is_ok(), "delegation, as documented");
        helper.send("exit");
        tokio::time::timeout(Duration::from_secs(30), peer.ended()).await.expect("told of the end");
        helper.wait();
        let error = all(&peer).await.unwrap_err();
        assert!(matches!(error, PeerError::Ended { .. }), "{error}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(heir), nix::sys::signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn w_03_connected_and_gone_before_it_was_accepted() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    for binding in [Binding::PeerPidfd, Binding::ByPid] {
        let mut helper = Helper::start(&socket);
        helper.order("connect");
        let heir: i32 = helper.order("hand-on").parse().unwrap();
        helper.send("exit");
        helper.wait();
        let error = accept(&listener, binding).unwrap_err();
        assert!(matches!(error, PeerError::Ended { .. }), "{binding:?}: {error}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(heir), nix::sys::signal::SIGKILL).unwrap();
    }
}

/// Starts this test binary in new namespaces, where it plays the agent. `unshare` is of util-linux.
fn namespaced(case: &str, socket: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(options).arg(std::env::current_exe().unwrap()).env(CASE, case);
    command.args(["testing::helper_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("BONAFIDE_TEST_HELPER_SOCKET", socket);
    command
}

fn run_namespaced(case: &str, options: &[&str]) {
    let directory = open_directory();
    set_mode(directory.path(), 0o777); // an agent that has become another user binds its socket there
    let output = namespaced(case, &directory.path().join("s"), options).output().expect("unshare is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains(&format!("shown {case}")),
        "{case} in a namespace of its own: {text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn w_04_a_pid_given_to_another_process() {
    run_namespaced("w-04", &["--pid", "--fork", "--mount-proc"]);
}

#[test]
fn w_07_a_process_that_the_agent_cannot_see() {
    let directory = open_directory();
    let socket = directory.path().join("s");
    let mut agent = namespaced("w-07", &socket, &["--pid", "--fork", "--mount-proc"]);
    let mut agent = agent.stdout(std::process::Stdio::piped()).spawn().expect("unshare is needed");
    // This process is outside the agent's namespace.
    let _connection = loop {
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(connection) => break connection,
            Err(_) => assert!(agent.try_wait().unwrap().is_none(), "the agent ended; are namespaces allowed here?"),
        }
    };
    let output = agent.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("shown w-07"));
}

/// The agent without privileges, the workload another user's: user and group take none.
#[test]
fn user_and_group_are_attested_without_privileges() {
    if !by_root("an agent without privileges") {
        return;
    }
    for case in ["unprivileged", "f-20-hidepid"] {
        run_namespaced(case, &["--mount", "--pid", "--fork", "--mount-proc"]);
    }
}

/// An agent that is nobody, asked by a process of root.
async fn without_privileges(socket: &Path, hidepid: bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_remove(CASE);
    let mut workload = Helper::start_by(command, socket);
    if hidepid {
        let remounted = Command::new("mount").args(["-o", "remount,hidepid=2", "/proc"]).status().unwrap();
        assert!(remounted.success());
    }
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(OTHER_GID.into(), OTHER_GID.into(), OTHER_GID.into()).unwrap();
    nix::unistd::setresuid(OTHER_UID.into(), OTHER_UID.into(), OTHER_UID.into()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    set_mode(socket, 0o666);
    workload.order("connect");
    let accepted = accept(&listener, Binding::PeerPidfd);
    if hidepid {
        let error = all(&accepted.unwrap()).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("hidepid"), "{error}");
        return;
    }
    let facts = all(&accepted.unwrap()).await.unwrap();
    assert_eq!((facts.uid, facts.gid, facts.user.as_deref()), (0, 0, Some("root")));
    assert_eq!((facts.path, facts.sha256, facts.unsure), (None, None, false));
    assert!(facts.notes.iter().any(|note| note.contains("CAP_SYS_PTRACE")), "{:?}", facts.notes);
}

/// What the binary does when it was started in namespaces of its own; it ends by printing `shown CASE`.
pub(crate) fn in_namespace(case: &str, socket: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match case {
            "w-04" => w_04(socket).await,
            "unprivileged" => without_privileges(socket, false).await,
            "f-20-hidepid" => without_privileges(socket, true).await,
            "w-07" => {
                let listener = UnixListener::bind(socket).unwrap();
                for binding in [Binding::PeerPidfd, Binding::ByPid, Binding::UserOnly] {
                    let (stream, _) = listener.accept().unwrap();
                    let error = Peer::of(&stream, binding).unwrap_err();
                    assert!(matches!(error, PeerError::InvisiblePid), "{binding:?}: {error}");
                    // The one connection serves for all three.
                    if binding == Binding::PeerPidfd {
                        let others = [Binding::ByPid, Binding::UserOnly];
                        assert!(others.iter().all(|other| Peer::of(&stream, *other).is_err()));
                        break;
                    }
                }
            }
            other => panic!("no case {other}"),
        }
    });
    println!("shown {case}");
}

/// The connector ends, another process keeps the connection, and the PID goes to a third, the victim.
async fn w_04(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let connect_and_leave = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env_remove(CASE);
        let mut helper = Helper::start_by(command, socket);
        helper.order("connect");
        helper.order("hand-on");
        helper
    };
    let recycle = |pid: i32| {
        for _ in 0..100 {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let mut victim = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
            if i32::try_from(victim.id()).unwrap() == pid {
                return victim;
            }
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        panic!("the PID could not be had again");
    };

    // Accepted while the connector lived, recycled afterwards.
    for binding in [Binding::PeerPidfd, Binding::ByPid] {
        let mut helper = connect_and_leave();
        let pid = helper.pid();
        let peer = accept(&listener, binding).unwrap();
        assert!(all(&peer).await.is_ok());
        helper.send("exit");
        helper.wait();
        let mut victim = recycle(pid);
        let error = all(&peer).await.unwrap_err();
        assert!(matches!(error, PeerError::Ended { .. }), "{binding:?}: {error}");
        victim.kill().unwrap();
        victim.wait().unwrap();
    }

    // Recycled before the agent accepts: the kernel's pidfd still tells them apart ...
    let mut helper = connect_and_leave();
    let pid = helper.pid();
    helper.send("exit");
    helper.wait();
    let mut victim = recycle(pid);
    let error = accept(&listener, Binding::PeerPidfd).unwrap_err();
    assert!(matches!(error, PeerError::Ended { .. }), "{error}");
    victim.kill().unwrap();
    victim.wait().unwrap();

    // ... and the PID does not, which is why `--attest-by-pid` is called racy and is off by default.
    let mut helper = connect_and_leave();
    let pid = helper.pid();
    helper.send("exit");
    helper.wait();
    let mut victim = recycle(pid);
    let taken = all(&accept(&listener, Binding::ByPid).unwrap()).await.unwrap();
    assert_eq!((taken.pid, taken.path), (pid, std::fs::canonicalize("/bin/sleep").unwrap().to_str().map(Into::into)));
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[tokio::test]
async fn w_06_namespaces_do_not_change_who_it_is() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let program = copy_of_helper(&directory.path().join("photo"));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]).arg(&program);
    let expected = match nix::unistd::geteuid().as_raw() {
        0 => {
            command.uid(OTHER_UID).gid(OTHER_GID);
            OTHER_UID
        }
        own => own,
    };
    // Inside it is uid 0 and pid 1.
    let mut helper = Helper::start_by(command, &socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    let facts = all(&peer).await.unwrap();
    assert_eq!(facts.uid, expected);
    assert!(facts.pid > 1, "the PID as the agent sees it, not as the process does");
    let status = std::fs::read_to_string(format!("/proc/{}/status", facts.pid)).unwrap();
    assert!(
        status.contains("NSpid:") && status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    );
    assert_eq!(facts.path.as_deref(), program.to_str(), "the same file under the same path on this host");
}

#[tokio::test]
async fn w_06_a_path_of_another_mount_namespace_is_no_path() {
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let program = copy_of_helper(&directory.path().join("mine"));
    // What a service is registered with, and what an unprivileged user binds its own program over.
    let trusted = directory.path().join("photo");
    copy_of(Path::new("/bin/sleep"), &trusted);
    let script =
        format!("mount --bind {} {} && exec {} \"$@\"", program.display(), trusted.display(), trusted.display());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    let mut helper = Helper::start_by(command, &socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    let facts = all(&peer).await.unwrap();
    assert_eq!(facts.shown_path.as_deref(), trusted.to_str(), "what the kernel prints");
    assert_eq!(facts.path, None, "what the agent believes");
    assert!(facts.notes.iter().any(|note| note.contains("another file on this host")), "{:?}", facts.notes);
}

#[tokio::test]
async fn w_09_a_setuid_program_is_its_owner() {
    if !by_root("W-09") {
        return;
    }
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let program = copy_of_helper(&directory.path().join("su"));
    set_mode(&program, 0o4755);
    let mut command = Command::new(&program);
    command.uid(OTHER_UID).gid(OTHER_GID);
    let mut helper = Helper::start_by(command, &socket);
    helper.order("connect");
    let facts = all(&accept(&listener, Binding::PeerPidfd).unwrap()).await.unwrap();
    assert_eq!(facts.uid, 0, "the effective user, as the kernel says; is the temporary directory mounted nosuid?");
    assert_eq!(std::fs::metadata(&program).unwrap().uid(), 0);
}

#[tokio::test]
async fn w_10_deleted_and_nameless_executables_have_no_path_and_no_hash() {
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let program = copy_of_helper(&directory.path().join("photo"));
    let mut helper = Helper::start_by(Command::new(&program), &socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    std::fs::remove_file(&program).unwrap();
    let nothing = |facts: &Facts| {
        assert_eq!((facts.path.as_deref(), facts.sha256.as_deref()), (None, None));
        assert!(facts.notes.iter().filter(|note| note.contains("deleted")).count() == 2, "{:?}", facts.notes);
    };
    nothing(&all(&peer).await.unwrap());
    // Another file of that name, even of that content, is not what runs.
    copy_of_helper(&program);
    nothing(&all(&peer).await.unwrap());
    helper.send("exec-memfd /bin/sleep");
    until(async || all(&peer).await.unwrap().shown_path.is_some_and(|path| path.starts_with("/memfd:photo"))).await;
    nothing(&all(&peer).await.unwrap());
}

#[tokio::test]
async fn w_10_hashing_is_bounded() {
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let mut helper = Helper::start(&socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    let notes = async |limits| attestor_with(limits).attest_with(&peer, Needs::ALL).await.unwrap().notes.join("; ");
    let limits = ExecutableLimits::default();
    let size = std::fs::metadata(std::env::current_exe().unwrap()).unwrap().len();
    assert_eq!(notes(ExecutableLimits { size, ..limits }).await, "", "just fits");
    let text = notes(ExecutableLimits { size: size - 1, ..limits }).await;
    assert_eq!(
        text,
        format!("unix:sha256 is unknown: the executable is {size} bytes long, at most {} are hashed", size - 1)
    );
    let text = notes(ExecutableLimits { hash: Duration::ZERO, ..limits }).await;
    assert!(text.contains("could not be hashed within"), "{text}");
    let text = notes(ExecutableLimits { threads_per_user: 0, ..limits }).await;
    assert!(text.contains("0 executables of this user are being looked at"), "{text}");
}

#[tokio::test]
async fn w_10_a_file_system_that_never_answers_is_given_up() {
    if !by_root("W-10 (a FUSE mount without a server)") {
        return;
    }
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let covered = directory.path().join("covered");
    std::fs::create_dir(&covered).unwrap();
    let program = copy_of_helper(&covered.join("photo"));
    let mut helper = Helper::start_by(Command::new(&program), &socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    // The path of the executable now leads into a file system that waits for a server that never answers.
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse is needed");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&server);
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount("test", &covered, "fuse", rustix::mount::MountFlags::empty(), Some(options.as_c_str()))
        .unwrap();

    let attestor =
        attestor_with(ExecutableLimits { look: Duration::from_millis(50), threads_per_user: 2, ..Default::default() });
    let mut texts = Vec::new();
    for _ in 0..4 {
        let facts = attestor.attest_with(&peer, Needs::default()).await.unwrap();
        assert_eq!((facts.path, facts.executable), (None, None));
        assert_eq!(facts.uid, nix::unistd::geteuid().as_raw(), "what does not depend on it is known");
        texts.push(facts.notes.join("; "));
    }
    assert!(attestor.attest_with(&peer, Needs::default()).await.unwrap().unsure, "it may answer later");
    assert!(texts[0].contains("did not answer within") && texts[1].contains("did not answer within"), "{texts:?}");
    assert!(texts[2].contains("2 executables") && texts[3].contains("2 executables"), "{texts:?}");
    rustix::mount::unmount(&covered, rustix::mount::UnmountFlags::DETACH).unwrap();
    drop(server); // ends the waiting threads
    until(async || attestor.attest_with(&peer, Needs::default()).await.unwrap().executable.is_some()).await;
}

#[tokio::test]
async fn w_11_a_process_chooses_its_name() {
    needs_pidfd();
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    for name in ["a) R 0 0 0 0", "..", "x\u{fc}\u{fc}", "\u{1b}[31m"] {
        let mut helper = Helper::start(&socket);
        helper.order(&format!("name {name}"));
        helper.order("connect");
        for binding in [Binding::PeerPidfd, Binding::ByPid] {
            if binding == Binding::ByPid {
                helper.order("connect");
            }
            assert!(all(&accept(&listener, binding).unwrap()).await.is_ok(), "{name:?} {binding:?}");
        }
    }
}

/// Without a service that names more than a user, nothing but the user is looked up.
#[tokio::test]
async fn the_view_says_what_is_looked_up() {
    let directory = open_directory();
    let (socket, listener) = listen(directory.path());
    let mut helper = Helper::start(&socket);
    helper.order("connect");
    let peer = accept(&listener, Binding::PeerPidfd).unwrap();
    let empty = View::empty(TrustDomain::parse("example.org").unwrap());
    let facts = attestor().attest(&peer, &empty).await.unwrap();
    assert_eq!((facts.user, facts.group, facts.sha256), (None, None, None));
    assert!(facts.path.is_some() && facts.executable.is_some());
}
