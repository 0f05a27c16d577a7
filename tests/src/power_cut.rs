//! What a disk holds after the power was cut, found out from what a program asked of it: strace writes down every call that
//! changes a file, and this plays them again on a disk in memory that knows what was made durable and what was not.
//!
//! It is as unkind as POSIX lets a disk be: a file's content is there if the file was synced after it was written, a name is
//! there if its directory was synced after it was given. Of all the rest, anything may be there or not.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    process::Command,
};

/// The calls that change files or make changes durable.
const CALLS: &str = "openat,write,pwrite64,ftruncate,fallocate,pwritev,writev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,\
                     rmdir,link,linkat,fsync,fdatasync,sync_file_range,copy_file_range";

/// Our programs hide their memory from everybody but root, so only root's strace sees what they write. `true`: this process is
/// root, go on. `false`: it is not, and the calling test has been run by root in a process of its own (`sudo -n`), and passed.
pub fn by_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "env"]);
    // Cargo finds there that everything is built.
    for (name, value) in std::env::vars()
        .filter(|(name, _)| name.contains("CARGO") || name.contains("RUST") || name == "PATH" || name == "HOME")
    {
        sudo.arg(format!("{name}={value}"));
    }
    sudo.arg(std::env::current_exe().expect("this program")).args([test, "--exact", "--nocapture"]);
    let run = sudo.output().expect("sudo is needed, or root");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "run by root: {said}");
    false
}

/// Puts `command` under strace, which writes what it does to files into `trace`. The program stays our child.
pub fn traced(command: &Command, trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    // Times in microseconds, the paths of descriptors, all text in hexadecimal digits and whole.
    strace.args(["-D", "-f", "-qqq", "-ttt", "-y", "-xx", "-s", "16777216", "-e", "signal=none"]);
    strace.args(["-e", &format!("trace={CALLS}")]).arg("-o").arg(trace);
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// One call that changed something below the disk's root, or made it durable.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it began, in microseconds since 1970.
    pub at: u64,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Create { path: String },
    Truncate { path: String, length: usize },
    Write { path: String, offset: usize, bytes: Vec<u8> },
    Rename { from: String, to: String },
    Unlink { path: String },
    Mkdir { path: String },
    Sync { path: String },
}

impl Event {
    /// Whether it made the file durable whose path ends so.
    pub fn is_sync_of(&self, file: &str) -> bool {
        matches!(&self.change, Change::Sync { path } if path.ends_with(file))
    }

    /// A moment before or after which the disk may be in an odd state: not just one more write.
    pub fn is_turn(&self) -> bool {
        !matches!(self.change, Change::Write { .. } | Change::Create { .. } | Change::Truncate { .. })
    }
}

/// Reads the changes below `root` out of a trace.
///
/// # Errors
/// The trace cannot be read, or holds what this does not understand.
pub fn events(trace: &Path, root: &Path) -> io::Result<Vec<Event>> {
    let root = format!("{}/", root.display().to_string().trim_end_matches('/'));
    let mut begun: HashMap<String, String> = HashMap::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    let mut events = Vec::new();
    for line in fs::read_to_string(trace)?.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_start();
        if let Some(half) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread.to_owned(), half.to_owned());
            continue;
        }
        // `TIME <... name resumed>REST` goes on where the thread's last call stopped.
        let whole = match rest.split_once(" <... ").and_then(|(_, resumed)| resumed.split_once(" resumed>")) {
            Some((_, end)) => format!("{}{end}", begun.remove(thread).unwrap_or_default()),
            None => rest.to_owned(),
        };
        let Some((at, call)) = whole.split_once(' ') else { continue };
        let at = at.replace('.', "").parse().map_err(|_| unknown(line))?;
        for change in changes(call, &mut positions).ok_or_else(|| unknown(line))? {
            if let Some(change) = change.below(&root) {
                events.push(Event { at, change });
            }
        }
    }
    Ok(events)
}

fn unknown(line: &str) -> io::Error {
    let line: String = line.chars().take(300).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("not understood in the trace: {line}"))
}

/// What a call changed; `None` if it is not understood. `positions` are those of open descriptors.
fn changes(call: &str, positions: &mut HashMap<String, usize>) -> Option<Vec<Change>> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments: Vec<&str> = arguments.trim_end().strip_suffix(')')?.split(", ").collect();
    let argument = |index: usize| arguments.get(index).copied();
    if result.starts_with('-') || result.starts_with('?') {
        return Some(Vec::new());
    }
    Some(match name {
        "openat" => {
            let (path, flags) = (at(argument(0)?, argument(1)?)?, argument(2)?);
            positions.insert(result.split('<').next()?.to_owned(), 0);
            let mut changes = Vec::new();
            if flags.contains("O_CREAT") {
                changes.push(Change::Create { path: path.clone() });
            }
            if flags.contains("O_TRUNC") {
                changes.push(Change::Truncate { path, length: 0 });
            }
            changes
        }
        "write" => {
            let (number, path) = descriptor(argument(0)?)?;
            let bytes = bytes(argument(1)?)?;
            let position = positions.entry(number).or_default();
            let offset = *position;
            *position += bytes.len();
            vec![Change::Write { path, offset, bytes }]
        }
        "pwrite64" => {
            let (_, path) = descriptor(argument(0)?)?;
            vec![Change::Write { path, bytes: bytes(argument(1)?)?, offset: argument(3)?.parse().ok()? }]
        }
        "ftruncate" => {
            vec![Change::Truncate { path: descriptor(argument(0)?)?.1, length: argument(1)?.parse().ok()? }]
        }
        "rename" => vec![Change::Rename { from: text(argument(0)?)?, to: text(argument(1)?)? }],
        "renameat" | "renameat2" => {
            vec![Change::Rename { from: at(argument(0)?, argument(1)?)?, to: at(argument(2)?, argument(3)?)? }]
        }
        "unlink" | "rmdir" => vec![Change::Unlink { path: text(argument(0)?)? }],
        "unlinkat" => vec![Change::Unlink { path: at(argument(0)?, argument(1)?)? }],
        "mkdir" => vec![Change::Mkdir { path: text(argument(0)?)? }],
        "mkdirat" => vec![Change::Mkdir { path: at(argument(0)?, argument(1)?)? }],
        "fsync" | "fdatasync" => vec![Change::Sync { path: descriptor(argument(0)?)?.1 }],
        // Sockets and pipes are written in pieces, our files are not.
        "writev" if !descriptor(argument(0)?)?.1.starts_with('/') => Vec::new(),
        _ => return None,
    })
}

/// `12<\x2f\x74>`: number and path.
fn descriptor(text: &str) -> Option<(String, String)> {
    let (number, path) = text.split_once('<')?;
    Some((number.to_owned(), String::from_utf8(hexadecimal(path.split('>').next()?)?).ok()?))
}

/// A name in a directory that is open, `9<\x2f\x74>, "\x61"`, or a path by itself.
fn at(folder: &str, name: &str) -> Option<String> {
    let name = text(name)?;
    if name.starts_with('/') { Some(name) } else { Some(format!("{}/{name}", descriptor(folder)?.1)) }
}

/// `"\x2f\x74"` as text.
fn text(quoted: &str) -> Option<String> {
    String::from_utf8(bytes(quoted)?).ok()
}

/// `"\x2f\x74"`; what strace cut short is not understood.
fn bytes(quoted: &str) -> Option<Vec<u8>> {
    hexadecimal(quoted.strip_prefix('"')?.strip_suffix('"')?)
}

/// `\x2f\x74`, or plain text such as `socket:[12]`.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.starts_with("\\x") {
        return Some(text.as_bytes().to_vec());
    }
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

impl Change {
    /// With paths relative to the root; `None` for what lies elsewhere. Memory that SQLite shares is made anew by each start.
    fn below(self, root: &str) -> Option<Self> {
        let inside = |path: String| match path.strip_prefix(root) {
            Some(path) => Some(path.trim_end_matches('/').to_owned()),
            None if path == root.trim_end_matches('/') => Some(String::new()),
            None => None,
        };
        let change = match self {
            Self::Create { path } => Self::Create { path: inside(path)? },
            Self::Truncate { path, length } => Self::Truncate { path: inside(path)?, length },
            Self::Write { path, offset, bytes } => Self::Write { path: inside(path)?, offset, bytes },
            Self::Rename { from, to } => Self::Rename { from: inside(from)?, to: inside(to)? },
            Self::Unlink { path } => Self::Unlink { path: inside(path)? },
            Self::Mkdir { path } => Self::Mkdir { path: inside(path)? },
            Self::Sync { path } => Self::Sync { path: inside(path)? },
        };
        let shared = matches!(&change, Self::Create { path } | Self::Truncate { path, .. } | Self::Write { path, .. }
            if path.ends_with("-shm"));
        (!shared).then_some(change)
    }
}

/// The disk in memory.
#[derive(Debug)]
pub struct Disk {
    inodes: Vec<Inode>,
}

#[derive(Debug)]
enum Inode {
    File { durable: Vec<u8>, pending: Vec<Piece> },
    Directory { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize>, pending: Vec<Entry> },
}

#[derive(Clone, Debug)]
enum Piece {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum Entry {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// What becomes of that which was not made durable.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    /// It is gone: the most that a disk may lose.
    Lost,
    /// It is there: nothing was cut, only the program was.
    Kept,
    /// Each piece is there or not, as this seed has it.
    ByChance(u64),
}

impl Unsynced {
    /// Whether the next piece is there.
    fn keeps(&mut self) -> bool {
        match self {
            Self::Lost => false,
            Self::Kept => true,
            Self::ByChance(state) => {
                // SplitMix64: the same seed, the same disk.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed >> 63 == 1
            }
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        let root = Inode::Directory { now: BTreeMap::new(), durable: BTreeMap::new(), pending: Vec::new() };
        Self { inodes: vec![root] }
    }
}

impl Disk {
    /// The disk after these changes, with nothing on it before.
    pub fn after<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut disk = Self::default();
        for event in events {
            disk.apply(&event.change);
        }
        disk
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { path } if self.find(path).is_none() => {
                self.add(path, Inode::File { durable: Vec::new(), pending: Vec::new() });
            }
            Change::Create { .. } => {}
            Change::Mkdir { path } => {
                let new = Inode::Directory { now: BTreeMap::new(), durable: BTreeMap::new(), pending: Vec::new() };
                self.add(path, new);
            }
            Change::Write { path, offset, bytes } => self.piece(path, Piece::Write(*offset, bytes.clone())),
            Change::Truncate { path, length } => self.piece(path, Piece::Length(*length)),
            Change::Unlink { path } => self.entry(path, |name, _| Entry::Remove(name)),
            Change::Rename { from, to } => {
                let (folder, new) = split(to);
                assert_eq!(split(from).0, folder, "renamed within its directory");
                self.entry(from, |name, inode| Entry::Rename(name, new.to_owned(), inode));
            }
            Change::Sync { path } => {
                let Some(inode) = self.find(path).and_then(|inode| self.inodes.get_mut(inode)) else { return };
                match inode {
                    Inode::File { durable, pending } => pending.drain(..).for_each(|piece| piece.apply(durable)),
                    Inode::Directory { durable, pending, .. } => {
                        pending.drain(..).for_each(|entry| entry.apply(durable));
                    }
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(0, |inode, part| match self.inodes.get(inode)? {
            Inode::Directory { now, .. } => now.get(part).copied(),
            Inode::File { .. } => None,
        })
    }

    fn add(&mut self, path: &str, new: Inode) {
        let number = self.inodes.len();
        self.inodes.push(new);
        let (folder, name) = split(path);
        self.change_folder(folder, Entry::Add(name.to_owned(), number));
    }

    fn entry(&mut self, path: &str, entry: impl FnOnce(String, usize) -> Entry) {
        let (folder, name) = split(path);
        if let Some(inode) = self.find(path) {
            self.change_folder(folder, entry(name.to_owned(), inode));
        }
    }

    fn change_folder(&mut self, folder: &str, entry: Entry) {
        let found = self.find(folder).and_then(|inode| self.inodes.get_mut(inode));
        if let Some(Inode::Directory { now, pending, .. }) = found {
            entry.clone().apply(now);
            pending.push(entry);
        }
    }

    /// A piece of a file that was there before the trace, or has no name any more, is nobody's.
    fn piece(&mut self, path: &str, piece: Piece) {
        if let Some(Inode::File { pending, .. }) = self.find(path).and_then(|inode| self.inodes.get_mut(inode)) {
            pending.push(piece);
        }
    }

    /// Writes what the disk holds when the power is cut now into an empty or absent directory.
    ///
    /// # Errors
    /// The real disk's.
    pub fn cut(&self, mut unsynced: Unsynced, to: &Path) -> io::Result<()> {
        self.write(0, &mut unsynced, to)
    }

    fn write(&self, inode: usize, unsynced: &mut Unsynced, to: &Path) -> io::Result<()> {
        match self.inodes.get(inode) {
            Some(Inode::File { durable, pending }) => {
                let mut content = durable.clone();
                pending.iter().filter(|_| unsynced.keeps()).for_each(|piece| piece.clone().apply(&mut content));
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
                io::Write::write_all(&mut file, &content)
            }
            Some(Inode::Directory { durable, pending, .. }) => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
                let mut entries = durable.clone();
                pending.iter().filter(|_| unsynced.keeps()).for_each(|entry| entry.clone().apply(&mut entries));
                entries.iter().try_for_each(|(name, inode)| self.write(*inode, unsynced, &to.join(name)))
            }
            None => Ok(()),
        }
    }
}

impl Piece {
    fn apply(self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(length, 0),
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content.splice(offset..end, bytes);
            }
        }
    }
}

impl Entry {
    fn apply(self, entries: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, inode) => {
                entries.insert(name, inode);
            }
            Self::Remove(name) => {
                entries.remove(&name);
            }
            Self::Rename(from, to, inode) => {
                entries.remove(&from);
                entries.insert(to, inode);
            }
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program that saves a file leaves behind, with and without each of its syncs.
    #[test]
    fn what_is_not_synced_is_lost() {
        let trace = |with: &[&str]| {
            let lines = [
                r#"1 1.000001 openat(5<\x2f\x72>, "\x61", O_WRONLY|O_CREAT|O_EXCL, 0600) = 3<\x2f\x72\x2f\x61>"#,
                r#"1 1.000002 write(3<\x2f\x72\x2f\x61>, "\x68\x69", 2 <unfinished ...>"#,
                r#"2 1.000003 write(4<pipe:[1]>, "\x68", 1) = 1"#,
                r#"1 1.000004 <... write resumed>) = 2"#,
                r#"1 1.000005 fsync(3<\x2f\x72\x2f\x61>) = 0"#,
                r#"1 1.000006 rename("\x2f\x72\x2f\x61", "\x2f\x72\x2f\x62") = 0"#,
                r#"1 1.000007 fsync(5<\x2f\x72>) = 0"#,
            ];
            let kept = lines.iter().filter(|line| !line.contains("fsync") || with.iter().any(|one| line.contains(one)));
            kept.map(|line| format!("{line}\n")).collect::<String>()
        };
        let cases: &[(&[&str], &str)] =
            &[(&["fsync(3", "fsync(5"], "b=hi"), (&["fsync(5"], "b="), (&["fsync(3"], ""), (&[], "")];
        for (with, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("trace"), trace(with)).unwrap();
            let events = events(&dir.path().join("trace"), Path::new("/r")).unwrap();
            Disk::after(&events).cut(Unsynced::Lost, &dir.path().join("disk")).unwrap();
            let found: Vec<String> = fs::read_dir(dir.path().join("disk"))
                .unwrap()
                .map(|file| file.unwrap().path())
                .map(|path| format!("{}={}", path.file_name().unwrap().display(), fs::read_to_string(&path).unwrap()))
                .collect();
            assert_eq!(found.join(" "), *expected, "{with:?}");
            Disk::after(&events).cut(Unsynced::Kept, &dir.path().join("kept")).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("kept/b")).unwrap(), "hi");
        }
    }
}
