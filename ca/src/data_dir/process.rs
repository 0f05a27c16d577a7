//! What a process that holds keys does to itself before it reads any.

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};
use tracing::warn;

/// Files are for this user alone, no other process of this user may look into this one, and no core is ever written. As many
/// files may be open as the system allows.
pub(crate) fn harden_process() {
    umask(Mode::from_bits_truncate(0o077));
    if let Err(error) = prctl::set_dumpable(false) {
        warn!(%error, "could not keep other processes from looking into this one");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(%error, "could not switch core files off");
    }
    // Each node's connection is a file. The soft limit, often 1,024, is there for programs that use `select`.
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "could not raise the limit of open files; fewer nodes can connect (LimitNOFILE=)");
    }
}
