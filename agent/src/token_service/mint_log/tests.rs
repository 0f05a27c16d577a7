use std::{fs, path::PathBuf};

use bonafide_ca_api::MintChain;
use bonafide_verifier::clock::SystemClock;

use super::*;

fn node_name() -> NodeName {
    NodeName::parse("web-1").unwrap()
}

struct Home {
    directory: tempfile::TempDir,
    limits: MintLogLimits,
    clock: Arc<dyn Clock>,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), limits: MintLogLimits::default(), clock: Arc::new(SystemClock) }
    }

    fn open(&self) -> MintLog {
        MintLog::open(self.directory.path(), &node_name(), self.limits, Arc::clone(&self.clock))
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(MintLog::FILE)
    }

    /// A log with this many records, closed.
    async fn with(records: u64) -> Self {
        let home = Self::new();
        let log = home.open();
        for number in 1..=records {
            assert_eq!(log.append(number.cast_signed(), &body(number)).await, Ok(number));
        }
        home
    }
}

fn body(number: u64) -> Vec<u8> {
    format!("{{\"txn\":\"t-{number}\"}}").into_bytes()
}

/// What is there for the CA once the record `last` is durable.
async fn waiting(log: &MintLog, last: u64) -> Waiting {
    loop {
        match log.waiting().await.unwrap() {
            Some(waiting) if waiting.last >= last => return waiting,
            _ => log.durable().await,
        }
    }
}

/// The chain of a message, as the CA follows it.
fn follow(waiting: &Waiting) -> MintChain {
    let request = &waiting.request;
    let first = request.records.first().unwrap().seq;
    let hash = request.previous.as_slice().try_into().unwrap();
    let mut chain = MintChain { log: request.log.clone(), seq: first - 1, hash };
    for record in &request.records {
        chain.advance(record.at_ms, &record.body);
        assert_eq!(chain.seq, record.seq);
    }
    chain
}

#[tokio::test]
async fn what_is_recorded_is_there_after_a_restart_until_it_was_collected() {
    let home = Home::with(3).await;
    let log = home.open();
    let first = waiting(&log, 3).await;
    assert_eq!((first.request.records.len(), first.last), (3, 3));
    assert_eq!(first.request.records[1].body, body(2));
    let begin = MintChain::begin(&node_name(), &first.request.log);
    assert_eq!(first.request.previous, begin.hash);
    log.collected(2).await;
    log.append(4, &body(4)).await.unwrap();
    let rest = waiting(&log, 4).await;
    assert_eq!((rest.request.records[0].seq, rest.last), (3, 4));
    assert_eq!(log.status().waiting, 2);
    // What the CA has is not written down each time: after a restart it is sent once more, and the CA sees that.
    let log = home.open();
    let again = waiting(&log, 4).await;
    assert_eq!((again.request.records.len(), again.request.log == first.request.log), (4, true));
    assert_eq!(follow(&again), follow(&rest));
    log.collected(9).await;
    assert_eq!(log.waiting().await, Ok(None), "the CA never has more than there is");
}

#[tokio::test]
async fn records_that_were_collected_make_room_and_the_chain_goes_on() {
    let mut home = Home::new();
    home.limits.collected_bytes = 1600;
    let log = home.open();
    let mut expected = None;
    for number in 1..=200 {
        log.append(1, &body(number)).await.unwrap();
        if number % 10 == 0 {
            let waiting = waiting(&log, number).await;
            if let Some(place) = &expected {
                let before = MintChain {
                    hash: waiting.request.previous.as_slice().try_into().unwrap(),
                    ..MintChain::clone(place)
                };
                assert_eq!(before, *place);
            }
            expected = Some(follow(&waiting));
            log.collected(waiting.last - number % 3).await;
            expected = expected.filter(|_| number % 3 == 0);
        }
    }
    assert!(fs::metadata(home.path()).unwrap().len() < 4000);
    let place = log.status();
    let log = home.open();
    assert!(log.status().waiting >= place.waiting, "{place:?}");
    assert_eq!(log.append(1, &body(201)).await, Ok(201));
}

#[tokio::test]
async fn a_full_log_refuses_until_the_ca_has_collected() {
    let mut home = Home::new();
    home.limits = MintLogLimits { bytes: 20_000, collected_bytes: 100, ..home.limits };
    let log = home.open();
    let mut written = 0;
    let full = loop {
        match log.append(1, &vec![b'x'; 500]).await {
            Ok(seq) => written = seq,
            Err(full) => break full,
        }
    };
    assert!(matches!(full, MintLogError::Full { limit: 20_000, .. }) && written > 10, "{full}");
    assert_eq!(log.status().trouble, Some(full));
    let waiting = waiting(&log, written).await;
    log.collected(waiting.last).await;
    assert_eq!(log.append(1, &vec![b'x'; 500]).await, Ok(written + 1));
    assert_eq!(log.status().trouble, None);
}

#[tokio::test]
async fn a_half_written_end_is_cut_off_and_nothing_else_is_forgiven() {
    let home = Home::with(3).await;
    let whole = fs::read(home.path()).unwrap();
    let two = {
        let home = Home::with(2).await;
        fs::read(home.path()).unwrap().len()
    };
    // Killed at each byte of the last record: two are left, and the log goes on.
    for length in two..whole.len() {
        fs::write(home.path(), &whole[..length]).unwrap();
        let log = home.open();
        assert_eq!((log.status().waiting, log.status().trouble), (2, None), "cut at {length}");
        assert_eq!(log.append(1, &body(9)).await, Ok(3));
    }
    // (F-14) A flipped bit anywhere is damage; nothing is recorded, and the file stays as it is.
    for offset in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[offset] ^= 4;
        fs::write(home.path(), &flipped).unwrap();
        let log = home.open();
        let refused = log.append(1, &body(9)).await;
        // The name of the log in its head is covered by the chain, its place by the hash behind it.
        assert!(matches!(refused, Err(MintLogError::Damaged { .. })), "flipped at {offset}: {refused:?}");
        drop(log);
        assert_eq!(fs::read(home.path()).unwrap(), flipped, "flipped at {offset}");
    }
}

#[tokio::test]
async fn what_is_no_log_of_this_node_is_left_alone() {
    let home = Home::with(1).await;
    let log =
        MintLog::open(home.directory.path(), &NodeName::parse("web-2").unwrap(), home.limits, Arc::clone(&home.clock));
    assert!(matches!(log.append(1, &body(1)).await, Err(MintLogError::Damaged { .. })));
    assert!(log.waiting().await.is_err());
    for content in ["", "bonafide", "something else that is longer"] {
        fs::write(home.path(), content).unwrap();
        let log = home.open();
        assert!(matches!(log.append(1, &body(1)).await, Err(MintLogError::Damaged { offset: 0, .. })), "{content}");
    }
    fs::remove_file(home.path()).unwrap();
    std::os::unix::fs::symlink("elsewhere", home.path()).unwrap();
    assert!(matches!(home.open().append(1, &body(1)).await, Err(MintLogError::Unwritable { .. })));
    fs::remove_file(home.path()).unwrap();
    fs::create_dir(home.path()).unwrap();
    assert!(home.open().append(1, &body(1)).await.is_err());
}

#[tokio::test]
async fn a_disk_that_does_not_keep_up_is_waited_for_and_a_log_that_breaks_meanwhile_is_not() {
    let mut home = Home::new();
    home.limits.behind = Duration::ZERO;
    let log = home.open();
    for number in 1..=3 {
        assert_eq!(log.append(1, &body(number)).await, Ok(number));
        // Each but the first has waited for the one before it to be durable.
        let durable = log.waiting().await.unwrap().map_or(0, |waiting| waiting.last);
        assert!(durable >= number - 1, "{durable} of {number}");
    }
    let waits = tokio::spawn({
        let log = log.clone();
        async move { log.append(1, &body(4)).await }
    });
    fs::File::options().write(true).open(home.path()).unwrap().set_len(20).unwrap();
    let broken = loop {
        match log.waiting().await {
            Err(broken) => break broken,
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    assert!(matches!(broken, MintLogError::Damaged { .. }));
    let waited = waits.await.unwrap();
    assert!(waited == Ok(4) || waited == Err(broken.clone()), "{waited:?}");
    assert_eq!(log.append(1, &body(5)).await, Err(broken.clone()));
    assert_eq!(log.status().trouble, Some(broken));
}

#[tokio::test]
async fn many_at_once_are_all_recorded_and_too_many_are_refused() {
    let mut home = Home::new();
    home.limits.waiting = 64;
    let log = home.open();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2000 {
        let log = log.clone();
        calls.spawn(async move { log.append(1, &body(number)).await });
    }
    let mut recorded = std::collections::BTreeSet::new();
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            Ok(seq) => assert!(recorded.insert(seq), "{seq} twice"),
            Err(error) => assert_eq!(error, MintLogError::Busy),
        }
    }
    assert_eq!(recorded.last().copied().unwrap(), recorded.len() as u64, "no gaps");
    assert_eq!(log.status().waiting, recorded.len() as u64);
}
