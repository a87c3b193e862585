//! Requests of mounts that were carried out, so that none is carried out twice.
//!
//! A daemon that takes a mount over from a dead one gets the requests again that the kernel had no reply
//! to. Some of them had been carried out. So the record of an operation names the request that asked for
//! it, in the same frame: replay finds the one exactly if it finds the other.
//!
//! A request is *waiting* from the commit that carries it out until its reply has been sent. A checkpoint
//! gives its record up, maybe in between: therefore the freeze puts the waiting ones into the journal once
//! more, behind the position that it notes. The *found* ones, of a daemon before this one, are kept in the
//! same way while there is an [`EarlierAnswers`]: who holds one may still ask for them.
//!
//! The thread that carries a request out says so ([`Pool::carry_out`]). An operation may take several
//! commits; the one that completes it says so too ([`super::Update::completes`]).
//!
//! Locks: leaves.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Pool;
use crate::format::{Answer, Encoder, MAX_ANSWERS, RequestId, encode_answers};
use crate::threads::Mutex;

/// Answers in one record: each stays small beside the shortest journal in use.
const ANSWERS_PER_RECORD: usize = 1024;

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current::None) };
}

/// What this thread is carrying out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    None,
    Request(RequestId),
    /// Its commit is made.
    Completed(RequestId),
}

/// The request that this thread carries out, if it is not completed yet.
pub(super) fn current() -> Option<RequestId> {
    match CURRENT.get() {
        Current::Request(request) => Some(request),
        Current::None | Current::Completed(_) => None,
    }
}

/// Ends requests that were carried out together, also when that panics.
struct CarryingOutTogether<'a> {
    answers: &'a Answers,
    requests: &'a [Answer],
}

impl Drop for CarryingOutTogether<'_> {
    fn drop(&mut self) {
        let mut waiting = self.answers.waiting.lock();
        for answer in self.requests {
            waiting.remove(&answer.request);
        }
    }
}

/// Ends the thread's request, also when it panics.
struct CarryingOut<'a>(&'a Answers);

impl Drop for CarryingOut<'_> {
    fn drop(&mut self) {
        if let Current::Completed(request) = CURRENT.replace(Current::None) {
            self.0.waiting.lock().remove(&request);
        }
    }
}

/// The tables of a pool.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: Mutex<HashMap<RequestId, u64>>,
    found: Arc<Mutex<Found>>,
}

/// Of earlier processes.
#[derive(Debug, Default)]
struct Found {
    results: HashMap<RequestId, u64>,
    keeper: Weak<EarlierAnswers>,
}

/// Keeps what earlier processes have carried out; with the last of its references it is forgotten.
#[derive(Debug)]
pub struct EarlierAnswers(Arc<Mutex<Found>>);

impl Drop for EarlierAnswers {
    fn drop(&mut self) {
        let mut found = self.0.lock();
        // There may be another one meanwhile.
        if found.keeper.strong_count() == 0 {
            found.results = HashMap::new();
        }
    }
}

impl Answers {
    /// Notes that the thread's request is in the journal. The gate is held.
    pub(super) fn completed(&self, answer: Answer) {
        CURRENT.set(Current::Completed(answer.request));
        self.completed_together(&[answer]);
    }

    /// Notes that requests of one commit are in the journal. The gate is held.
    pub(super) fn completed_together(&self, answers: &[Answer]) {
        let mut waiting = self.waiting.lock();
        waiting.extend(answers.iter().map(|answer| (answer.request, answer.result)));
    }

    /// Takes over what replay has found; the latest where they are more than can matter.
    pub(super) fn found(&self, answers: &[Answer]) {
        let latest = &answers[answers.len().saturating_sub(MAX_ANSWERS)..];
        let results = &mut self.found.lock().results;
        results.extend(latest.iter().map(|answer| (answer.request, answer.result)));
    }

    /// Payloads of the records that keep all there are.
    pub(super) fn payloads(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut add = |table: &HashMap<RequestId, u64>| {
            let answers =
                table.iter().map(|(request, result)| Answer { request: *request, result: *result });
            all.extend(answers);
        };
        add(&self.found.lock().results);
        add(&self.waiting.lock());
        let payload = |part: &[Answer]| {
            let mut out = Encoder::new();
            encode_answers(part, &mut out);
            out.0
        };
        all.chunks(ANSWERS_PER_RECORD).map(payload).collect()
    }
}

impl Pool {
    /// Runs what carries out a request of a mount and replies to it.
    ///
    /// The operation on this pool that completes it, on this thread, is then known by it until the reply
    /// has been sent, to a later process too.
    pub fn carry_out<T>(&self, request: RequestId, run: impl FnOnce() -> T) -> T {
        CURRENT.set(Current::Request(request));
        let _ending = CarryingOut(&self.answers);
        run()
    }

    /// As [`Pool::carry_out`], for requests that one commit carries out all of, or none:
    /// [`super::Update::completes_together`].
    pub fn carry_out_together<T>(&self, requests: &[Answer], run: impl FnOnce() -> T) -> T {
        let _ending = CarryingOutTogether { answers: &self.answers, requests };
        run()
    }

    /// Runs a part of a request that does not complete it, though it may make commits that would by themselves.
    pub fn aside<T>(&self, run: impl FnOnce() -> T) -> T {
        let request = CURRENT.replace(Current::None);
        let done = run();
        CURRENT.set(request);
        done
    }

    /// Returns the result of a request that an earlier process has carried out. None of one that it has
    /// not; needs [`super::OpenOptions::keep_answers`].
    pub fn answer_to(&self, request: RequestId) -> Option<u64> {
        self.answers.found.lock().results.get(&request).copied()
    }

    /// Keeps what earlier processes have carried out: for who may ask for it, as long as that may be.
    pub fn earlier_answers(&self) -> Arc<EarlierAnswers> {
        let mut found = self.answers.found.lock();
        found.keeper.upgrade().unwrap_or_else(|| {
            let kept = Arc::new(EarlierAnswers(Arc::clone(&self.answers.found)));
            found.keeper = Arc::downgrade(&kept);
            kept
        })
    }

    /// Keeps the answers that are still needed, behind the position that a freeze has noted.
    pub(super) fn keep_answers(&self) {
        for payload in self.answers.payloads() {
            if let Err(error) = self.journal.append(&payload) {
                // It costs something only if the process dies before this checkpoint makes room.
                tracing::warn!("the journal has no room for answers to requests: {error}");
                return;
            }
        }
    }
}
