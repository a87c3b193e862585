//! Sixteen threads on one pool: each changes files of its own, that are modelled, and now and then one makes,
//! looks at, clones or deletes a snapshot of everything, while checkpoints go on in the background.
//!
//! Each change is noted with the moments between which it took effect. A snapshot has to show, of every thread,
//! a state that it was in at some moment between the snapshot's invocation and its return; one of both volumes,
//! the same moment in both. In that, and looked at by itself: numbers that a thread writes to three files in
//! turn, the last in the other volume, are never ahead of those in the file before.
//!
//! `AMBERFS_STRESS_RUNS` multiplies the number of runs, `AMBERFS_SEED=N` tries another first one; what threads do
//! is the same each time, when they do it is not.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use amberfs::check;
use amberfs::device::Storage;
use amberfs::fs::{Caller, Error, FileKind, Filesystem, Handle, NodeId, SetAttr, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use crate::model::overwrite;
use crate::mounting::mount;
use crate::random::Random;
use crate::setting;
use crate::world::{clock, pattern};

const THREADS: usize = 16;
/// What a thread does in one run.
const STEPS: usize = 250;
const RUNS: u64 = 4;
const MAX_FILES: usize = 12;
const MAX_SNAPSHOTS: usize = 24;
const VOLUMES: [&str; 2] = ["m0", "m1"];
/// Files with numbers, in the order in which they are written; the last is in the other volume.
const COUNTERS: [&str; 3] = ["/A", "/B", "/C"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Dir,
    File(Arc<Vec<u8>>),
    Link(Vec<u8>),
}

/// Paths below a thread's directory.
type View = BTreeMap<String, Seen>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

/// The directory of a thread, in both volumes.
fn dir_of(thread: usize) -> String {
    format!("/t{thread}")
}

fn home_of(thread: usize) -> usize {
    thread % 2
}

/// Calls `f` with the node at a path, which is looked up and forgotten again.
fn with<T>(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(NodeId) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut held = Vec::new();
    let mut names = path.split('/').filter(|name| !name.is_empty());
    let found = names.try_fold(NodeId::ROOT, |parent, name| {
        let node = fs.lookup(&Caller::root(), parent, name.as_bytes())?.node;
        held.push(node);
        Ok(node)
    });
    let done = found.and_then(f);
    held.into_iter().for_each(|node| fs.forget(node, 1));
    done
}

/// Calls `f` with the directory and the name of a path.
fn within<T>(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(NodeId, &[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    let (parent, name) = path.rsplit_once('/').expect("paths begin with a slash");
    with(fs, parent, |dir| f(dir, name.as_bytes()))
}

fn read(fs: &Filesystem, node: NodeId, size: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; size as usize];
    let read = fs.read(node, Handle(0), 0, &mut bytes)?;
    assert_eq!(read, bytes.len(), "a file ends before its size");
    Ok(bytes)
}

/// Reads all below a directory.
fn view(fs: &Filesystem, top: &str) -> Result<View, Error> {
    let mut found = View::new();
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        let mut names = Vec::new();
        with(fs, &format!("{top}{path}"), |dir| {
            fs.readdir(&Caller::root(), dir, 0, false, &mut |entry| {
                names.push(String::from_utf8(entry.name.to_vec()).expect("names here are text"));
                true
            })
        })?;
        for name in names.iter().filter(|name| *name != "." && *name != "..") {
            let path = format!("{path}/{name}");
            let seen = with(fs, &format!("{top}{path}"), |node| {
                let attr = fs.getattr(node)?;
                Ok(match attr.kind() {
                    FileKind::Directory => Seen::Dir,
                    FileKind::Symlink => Seen::Link(fs.readlink(node)?),
                    _ => Seen::File(Arc::new(read(fs, node, attr.size)?)),
                })
            })?;
            if seen == Seen::Dir {
                pending.push(path.clone());
            }
            found.insert(path, seen);
        }
    }
    Ok(found)
}

/// What all threads have in a volume.
fn views(fs: &Filesystem) -> Result<Vec<View>, Error> {
    (0..THREADS).map(|thread| view(fs, &dir_of(thread))).collect()
}

/// A thread's state in both volumes, and the moments between which it came to be.
struct State {
    begun: u64,
    done: u64,
    /// In the volume in which the thread works, and in the other.
    views: [Arc<View>; 2],
}

/// A snapshot that was made between two moments, and what is in it: of each of its volumes, of each thread.
struct Sighting {
    name: String,
    begun: u64,
    done: u64,
    found: BTreeMap<usize, Vec<View>>,
    deleting: AtomicBool,
}

/// The number in a file of a view.
fn counter(view: &View, path: &str) -> u64 {
    match view.get(path) {
        Some(Seen::File(bytes)) if bytes.len() == 8 => {
            u64::from_le_bytes(bytes.as_slice().try_into().expect("eight bytes"))
        }
        _ => 0,
    }
}

/// Fails if a snapshot shows numbers that are ahead of those which came before them.
fn judge_counters(sighting: &Sighting, thread: usize) -> Result<(), String> {
    let places = [home_of(thread), home_of(thread), 1 - home_of(thread)];
    let numbers: Vec<u64> = COUNTERS
        .iter()
        .zip(places)
        .filter_map(|(path, volume)| Some(counter(&sighting.found.get(&volume)?[thread], path)))
        .collect();
    let order = numbers.windows(2).all(|two| two[0] == two[1] || two[0] == two[1] + 1);
    let first_and_last = numbers.first().zip(numbers.last()).is_none_or(|(a, c)| *a <= c + 1);
    if order && first_and_last {
        return Ok(());
    }
    Err(format!("snapshot {}: thread {thread} wrote {numbers:?} in turn", sighting.name))
}

/// Fails if a thread was in none of the states that a snapshot shows of it while the snapshot was made.
fn judge(sighting: &Sighting, thread: usize, history: &[State]) -> Result<(), String> {
    let until = |nth: usize| history.get(nth + 1).map_or(u64::MAX, |next| next.done);
    let possible: Vec<usize> = (0..history.len())
        .filter(|nth| history[*nth].begun < sighting.done && until(*nth) > sighting.begun)
        .collect();
    let is = |nth: &usize| {
        sighting.found.iter().all(|(volume, found)| {
            let place = usize::from(*volume != home_of(thread));
            found[thread] == *history[*nth].views[place]
        })
    };
    if possible.iter().any(is) {
        return Ok(());
    }
    let other: Vec<usize> = (0..history.len()).filter(is).collect();
    Err(format!(
        "snapshot {} of {:?}, made between {} and {}: thread {thread} was in its states {possible:?} then, \
         and the snapshot shows one of {other:?}",
        sighting.name,
        sighting.found.keys(),
        sighting.begun,
        sighting.done,
    ))
}

/// What all threads share.
struct Shared {
    pool: Arc<Pool>,
    mounts: [Filesystem; 2],
    clock: AtomicU64,
    names: AtomicU64,
    all: Mutex<Vec<Arc<Sighting>>>,
    /// Those that are there.
    live: Mutex<Vec<Arc<Sighting>>>,
    /// Planted: both volumes are frozen one after the other.
    one_by_one: bool,
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn freeze(&self, volumes: &[usize], name: &str) {
        let ids: Vec<_> = volumes.iter().map(|nth| self.mounts[*nth].volume().id()).collect();
        if self.one_by_one {
            for id in ids {
                self.pool.create_snapshot(id, name).expect("a snapshot");
                std::thread::sleep(Duration::from_millis(2));
            }
        } else {
            self.pool.create_group(&ids, name).expect("snapshots");
        }
    }

    fn snapshot(&self, volumes: &[usize]) {
        let name = format!("s{}", self.names.fetch_add(1, Ordering::Relaxed));
        let begun = self.now();
        self.freeze(volumes, &name);
        let done = self.now();
        let found = volumes.iter().map(|nth| {
            let fs = mount(&self.pool, VOLUMES[*nth], Some(&name)).expect("it is there");
            (*nth, views(&fs).expect("a snapshot can be read"))
        });
        let found = found.collect();
        let sighting =
            Arc::new(Sighting { name, begun, done, found, deleting: AtomicBool::new(false) });
        lock(&self.all).push(Arc::clone(&sighting));
        lock(&self.live).push(sighting);
    }

    /// Looks at a snapshot once more: it is as it was, or just being deleted.
    fn look(&self, sighting: &Sighting) {
        for (nth, before) in &sighting.found {
            let again = mount(&self.pool, VOLUMES[*nth], Some(&sighting.name));
            match again.and_then(|fs| views(&fs)) {
                Ok(now) => assert!(now == *before, "snapshot {} has changed", sighting.name),
                Err(error) => self.must_be_going(sighting, &error),
            }
        }
    }

    fn must_be_going(&self, sighting: &Sighting, error: &Error) {
        let gone = matches!(error, Error::NotFound | Error::Stale);
        let deleting = sighting.deleting.load(Ordering::SeqCst);
        assert!(gone && deleting, "snapshot {}: {error}", sighting.name);
    }

    fn delete(&self, sighting: &Sighting) {
        sighting.deleting.store(true, Ordering::SeqCst);
        for nth in sighting.found.keys() {
            let id = self.mounts[*nth].volume().id();
            self.pool.delete_snapshot(id, &sighting.name).expect("nobody else deletes it");
        }
    }

    /// Clones a snapshot, changes the clone, and restores it to what it was in between.
    fn clone_and_restore(&self, sighting: &Sighting, nth: usize) {
        let name = format!("c{}", self.names.fetch_add(1, Ordering::Relaxed));
        let origin = self.pool.snapshot(self.mounts[nth].volume().id(), &sighting.name);
        let cloned = origin.and_then(|info| self.pool.clone_volume(info.member, &name));
        let id = match cloned {
            Ok(volume) => volume.id(),
            Err(error) => return self.must_be_going(sighting, &error.into()),
        };
        let write = |byte: u8, len: usize| {
            let fs = mount(&self.pool, &name, None).expect("a clone can be mounted");
            let found = views(&fs).expect("a clone can be read");
            assert!(found == sighting.found[&nth], "{name} is not what it was cloned from");
            let _ = within(&fs, "/own", |dir, name| {
                let made = fs.mknod(&Caller::root(), dir, name, 0o100_644, 0)?;
                fs.forget(made.node, 1);
                Ok(())
            });
            put(&fs, "/own", 0, &vec![byte; len]).expect("a clone can be written");
        };
        write(1, 9000);
        self.pool.create_snapshot(id, "between").expect("a snapshot of a clone");
        write(2, 20_000);
        self.pool.restore(id, "between", "after").expect("a clone can be restored");
        let own = |snapshot| {
            let fs = mount(&self.pool, &name, snapshot).expect("it can be mounted");
            with(&fs, "/own", |node| read(&fs, node, fs.getattr(node)?.size)).expect("a file")
        };
        assert!(own(None) == vec![1; 9000], "{name} was not restored");
        assert!(own(Some("after")) == vec![2; 20_000], "{name} lost what was restored over");
        self.pool.delete_volume(&name).expect("a clone can be deleted");
        for snapshot in ["between", "after"] {
            self.pool.delete_snapshot(id, snapshot).expect("its snapshots can be deleted");
        }
    }
}

fn put(fs: &Filesystem, path: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    with(fs, path, |node| fs.write(node, Handle(0), offset, bytes, WriteFlags::default()).map(drop))
}

fn overwritten(content: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    if !bytes.is_empty() {
        overwrite(&mut content, offset, bytes);
    }
    content
}

/// One thread, and its model.
struct Worker<'a> {
    shared: &'a Shared,
    thread: usize,
    random: Random,
    history: Vec<State>,
    writes: u64,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, thread: usize, seed: u64) -> Worker<'a> {
        for fs in &shared.mounts {
            within(fs, &dir_of(thread), |dir, name| {
                let made = fs.mkdir(&Caller::root(), dir, name, 0o755)?;
                fs.forget(made.node, 1);
                Ok(())
            })
            .expect("a directory");
        }
        let views = [(); 2].map(|()| Arc::new(View::new()));
        let history = vec![State { begun: 0, done: shared.now(), views }];
        let random = Random::new(seed * THREADS as u64 + thread as u64);
        Worker { shared, thread, random, history, writes: 0 }
    }

    fn last(&self, place: usize) -> &View {
        &self.history.last().expect("there is a first").views[place]
    }

    /// Does something that changes the model to `after` in a place: at home, or in the other volume.
    fn change(&mut self, place: usize, after: View, act: impl FnOnce(&Filesystem, &str)) {
        self.change_to(place, |fs, top| {
            act(fs, top);
            after
        });
    }

    /// The same, when the call says how much it has changed.
    fn change_to(&mut self, place: usize, act: impl FnOnce(&Filesystem, &str) -> View) {
        let begun = self.shared.now();
        let volume = if place == 0 { home_of(self.thread) } else { 1 - home_of(self.thread) };
        let after = act(&self.shared.mounts[volume], &dir_of(self.thread));
        let mut views = self.history.last().expect("there is a first").views.clone();
        views[place] = Arc::new(after);
        let done = self.shared.now();
        self.history.push(State { begun, done, views });
    }

    fn step(&mut self) {
        let shared = self.shared;
        let live = lock(&shared.live).len();
        match self.random.below(100) {
            0..58 => self.file_operation(),
            58..76 => self.count(),
            76..84 if live < MAX_SNAPSHOTS => match self.random.below(4) {
                0 => shared.snapshot(&[0]),
                1 => shared.snapshot(&[1]),
                _ => shared.snapshot(&[0, 1]),
            },
            84..88 => {
                if let Some(sighting) = self.any(false) {
                    shared.look(&sighting);
                }
            }
            88..92 => {
                if let Some(sighting) = self.any(false) {
                    let volumes: Vec<usize> = sighting.found.keys().copied().collect();
                    let nth = *self.random.pick(&volumes);
                    shared.clone_and_restore(&sighting, nth);
                }
            }
            92..94 => shared.pool.checkpoint().expect("a checkpoint"),
            94 => shared.mounts[home_of(self.thread)].syncfs().expect("a sync"),
            95 => drop(shared.pool.run_reclaim().expect("space is reclaimed")),
            _ => {
                if let Some(sighting) = self.any(true) {
                    shared.look(&sighting);
                    shared.delete(&sighting);
                }
            }
        }
    }

    /// One of the snapshots that are there; taken from among them if it is to be deleted.
    fn any(&mut self, take: bool) -> Option<Arc<Sighting>> {
        let mut live = lock(&self.shared.live);
        if live.is_empty() {
            return None;
        }
        let at = self.random.below(live.len());
        Some(if take { live.swap_remove(at) } else { Arc::clone(&live[at]) })
    }

    /// Writes a number to the next of three files; it is in each of them after three times.
    fn count(&mut self) {
        let (nth, number) = ((self.writes % 3) as usize, self.writes / 3 + 1);
        self.writes += 1;
        let (path, place) = (COUNTERS[nth], usize::from(nth == 2));
        if !self.last(place).contains_key(path) {
            self.create(place, path);
        }
        let bytes = number.to_le_bytes();
        let mut after = self.last(place).clone();
        after.insert(path.into(), Seen::File(Arc::new(bytes.to_vec())));
        self.change(place, after, |fs, top| {
            put(fs, &format!("{top}{path}"), 0, &bytes).expect("a number can be written");
        });
    }

    fn create(&mut self, place: usize, path: &str) {
        let mut after = self.last(place).clone();
        after.insert(path.into(), Seen::File(Arc::default()));
        self.change(place, after, |fs, top| {
            within(fs, &format!("{top}{path}"), |dir, name| {
                let made = fs.mknod(&Caller::root(), dir, name, 0o100_644, 0)?;
                fs.forget(made.node, 1);
                Ok(())
            })
            .expect("a file can be made");
        });
    }

    fn file_operation(&mut self) {
        let now = self.last(0).clone();
        let own = |path: &&String| !COUNTERS.contains(&path.as_str());
        let paths = |wanted: fn(&Seen) -> bool| -> Vec<String> {
            let of_kind = now.iter().filter(|(_, seen)| wanted(seen));
            of_kind.map(|(path, _)| path).filter(own).cloned().collect()
        };
        let mut dirs = paths(|seen| *seen == Seen::Dir);
        dirs.push(String::new());
        let files = paths(|seen| matches!(seen, Seen::File(_)));
        let others = paths(|seen| *seen != Seen::Dir);
        let fresh = format!("{}/f{}", self.random.pick(&dirs), self.random.below(1000));
        let is_free = !now.contains_key(&fresh) && now.len() < MAX_FILES;
        match self.random.below(12) {
            0 | 1 if is_free => self.create(0, &fresh),
            2 if is_free => self.make(&now, &fresh, &others),
            3 if !others.is_empty() => {
                let path = self.random.pick(&others).clone();
                let mut after = now;
                after.remove(&path);
                self.change(0, after, |fs, top| {
                    within(fs, &format!("{top}{path}"), |dir, name| {
                        fs.unlink(&Caller::root(), dir, name)
                    })
                    .expect("a name can be taken away");
                });
            }
            4 if !others.is_empty() => {
                let from = self.random.pick(&others).clone();
                let to = if is_free { fresh } else { self.random.pick(&others).clone() };
                self.rename(now, &from, &to);
            }
            5 if dirs.len() > 1 => {
                let path = dirs[self.random.below(dirs.len() - 1)].clone();
                let inside = format!("{path}/");
                if !now.keys().any(|other| other.starts_with(&inside)) {
                    let mut after = now;
                    after.remove(&path);
                    self.change(0, after, |fs, top| {
                        within(fs, &format!("{top}{path}"), |dir, name| {
                            fs.rmdir(&Caller::root(), dir, name)
                        })
                        .expect("an empty directory can be removed");
                    });
                }
            }
            _ if !files.is_empty() => {
                let path = self.random.pick(&files).clone();
                let from = self.random.pick(&files).clone();
                self.content(&now, &path, &from);
            }
            _ => {}
        }
    }

    /// Makes a directory or a symbolic link.
    fn make(&mut self, now: &View, path: &str, others: &[String]) {
        let link = others.len() > 2 && self.random.below(2) == 0;
        let target = self.random.bytes(40);
        // A target has no NUL in it.
        let target: Vec<u8> = target.into_iter().map(|byte| byte | 1).collect();
        let mut after = now.clone();
        after.insert(path.into(), if link { Seen::Link(target.clone()) } else { Seen::Dir });
        self.change(0, after, |fs, top| {
            within(fs, &format!("{top}{path}"), |dir, name| {
                let made = if link {
                    fs.symlink(&Caller::root(), dir, name, &target)?
                } else {
                    fs.mkdir(&Caller::root(), dir, name, 0o755)?
                };
                fs.forget(made.node, 1);
                Ok(())
            })
            .expect("it can be made");
        });
    }

    fn rename(&mut self, now: View, from: &str, to: &str) {
        let mut after = now;
        if from != to {
            let moved = after.remove(from).expect("it is there");
            after.insert(to.into(), moved);
        }
        self.change(0, after, |fs, top| {
            within(fs, &format!("{top}{from}"), |dir, name| {
                within(fs, &format!("{top}{to}"), |to, new| {
                    fs.rename(&Caller::root(), dir, name, to, new, 0)
                })
            })
            .expect("a file can be renamed");
        });
    }

    /// Changes the content of a file; `from` is one of which it may take a part.
    fn content(&mut self, now: &View, path: &str, from: &str) {
        let of = |path: &str| match now.get(path) {
            Some(Seen::File(bytes)) => Arc::clone(bytes),
            _ => panic!("{path} is a file"),
        };
        let (old, other) = (of(path), of(from));
        let blocks = self.random.below(2) == 0;
        let offset = self.random.below(6) * 4096 + if blocks { 0 } else { self.random.below(3000) };
        let len = match blocks {
            true => 4096 * (1 + self.random.below(3)),
            false => 1 + self.random.below(9000),
        };
        let bytes = pattern(self.random.next(), len);
        let kept = old.len().min(offset);
        let what = self.random.below(8);
        self.change_to(0, |fs, top| {
            let (target, from_at) = (format!("{top}{path}"), format!("{top}{from}"));
            let (offset_bytes, len_bytes) = (offset as u64, len as u64);
            let done = match what {
                0 => with(fs, &target, |node| {
                    let set = SetAttr { size: Some(kept as u64), ..SetAttr::default() };
                    fs.setattr(&Caller::root(), node, &set)?;
                    Ok(old[..kept].to_vec())
                }),
                1 => with(fs, &target, |node| {
                    fs.fallocate(node, offset_bytes, len_bytes, 3)?;
                    let mut content = old.to_vec();
                    content[kept..].iter_mut().take(len).for_each(|byte| *byte = 0);
                    Ok(content)
                }),
                2 if path != from => with(fs, &target, |to| {
                    let copy = |node| fs.copy_file_range(node, 0, to, offset_bytes, len_bytes);
                    let copied = with(fs, &from_at, copy)? as usize;
                    assert!(copied > 0 || other.is_empty(), "nothing was copied");
                    Ok(overwritten(&old, offset, &other[..copied]))
                }),
                3 => put(fs, &target, old.len() as u64, &bytes)
                    .map(|()| overwritten(&old, old.len(), &bytes)),
                _ => put(fs, &target, offset_bytes, &bytes)
                    .map(|()| overwritten(&old, offset, &bytes)),
            };
            let mut after = now.clone();
            after.insert(path.into(), Seen::File(Arc::new(done.expect("there is room"))));
            after
        });
    }
}

fn open_options(nonce: u64) -> OpenOptions {
    OpenOptions {
        cache_bytes: 1 << 20,
        commit_interval: Duration::from_millis(5),
        background: true,
        nonce,
        ..OpenOptions::new(clock() as Arc<dyn Clock>)
    }
}

fn new_pool(storage: &Storage) -> Arc<Pool> {
    let create = CreateOptions {
        size_bytes: Some(256 << 20),
        journal_bytes: 1 << 20,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage.clone(), &create, open_options(1)).expect("a pool");
    let root = Filesystem::format_root(pool.now(), 0, 0, 0o755);
    for name in VOLUMES {
        pool.create_volume(name, &root).expect("a volume");
    }
    pool
}

fn check_all(storage: &Storage) {
    let options = check::Options { data: true, ..check::Options::default() };
    let report = check::check(storage, &options, &mut |_| ()).expect("it is a pool");
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// One run; returns how many changes were made, and snapshots.
fn run(seed: u64, one_by_one: bool) -> (usize, usize) {
    let storage = Storage::memory();
    let pool = new_pool(&storage);
    let mounts = VOLUMES.map(|name| mount(&pool, name, None).expect("a volume can be mounted"));
    let shared = Shared {
        pool,
        mounts,
        clock: AtomicU64::new(1),
        names: AtomicU64::new(0),
        all: Mutex::default(),
        live: Mutex::default(),
        one_by_one,
    };
    let mut workers: Vec<_> =
        (0..THREADS).map(|thread| Worker::new(&shared, thread, seed)).collect();
    std::thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(|| (0..STEPS).for_each(|_| worker.step()));
        }
    });
    let histories: Vec<Vec<State>> = workers.into_iter().map(|worker| worker.history).collect();
    assert_eq!(shared.pool.status().read_only, None);
    let all = lock(&shared.all).clone();
    for sighting in &all {
        for (thread, history) in histories.iter().enumerate() {
            let judged = judge_counters(sighting, thread);
            judged.and_then(|()| judge(sighting, thread, history)).unwrap_or_else(|why| {
                panic!("{why}");
            });
        }
    }
    let live = lock(&shared.live).clone();
    verify_after(&storage, shared.pool, &histories, &live, seed);
    (histories.iter().map(Vec::len).sum(), all.len())
}

/// What is there after the end: the process died, or ended in an orderly way.
fn verify_after(
    storage: &Storage,
    pool: Arc<Pool>,
    histories: &[Vec<State>],
    live: &[Arc<Sighting>],
    seed: u64,
) {
    match seed % 2 {
        0 => pool.close().expect("a pool can be closed"),
        _ => pool.abandon(),
    }
    drop(pool);
    check_all(storage);
    let pool = Pool::open(storage.clone(), open_options(2)).expect("it opens");
    for (nth, name) in VOLUMES.into_iter().enumerate() {
        let fs = mount(&pool, name, None).expect("a volume can be mounted");
        for (thread, found) in views(&fs).expect("it can be read").into_iter().enumerate() {
            let last = histories[thread].last().expect("there is a first");
            let place = usize::from(nth != home_of(thread));
            assert!(found == *last.views[place], "thread {thread} in {name} after the end");
        }
        for sighting in live.iter().filter(|sighting| sighting.found.contains_key(&nth)) {
            let fs = mount(&pool, name, Some(&sighting.name)).expect("it is there");
            let found = views(&fs).expect("it can be read");
            assert!(found == sighting.found[&nth], "snapshot {} after the end", sighting.name);
            pool.delete_snapshot(fs.volume().id(), &sighting.name).expect("it can be deleted");
        }
    }
    while pool.run_reclaim().expect("space is reclaimed") {}
    pool.close().expect("a pool can be closed");
    check_all(storage);
}

#[test]
fn snapshots_of_sixteen_threads_show_what_was_at_one_moment() {
    let first = setting("AMBERFS_SEED").unwrap_or(1);
    for seed in first..first + RUNS * setting("AMBERFS_STRESS_RUNS").unwrap_or(1) {
        println!("stress: AMBERFS_SEED={seed}");
        let begun = std::time::Instant::now();
        let (changes, snapshots) = run(seed, false);
        println!("{changes} changes, {snapshots} snapshots in {:?}", begun.elapsed());
    }
}

#[test]
fn volumes_that_are_not_frozen_at_one_moment_are_caught() {
    let run = |seed| catch_unwind(AssertUnwindSafe(|| run(seed, true))).is_err();
    assert!((0..5).any(run), "two snapshots one after the other pass for one");
}

#[test]
fn a_state_of_another_moment_is_caught() {
    let view = |n: u8| View::from([("/f".to_owned(), Seen::File(Arc::new(vec![n])))]);
    let state = |n: u64| State {
        begun: 10 * n + 1,
        done: 10 * n + 3,
        views: [Arc::new(view(n as u8)), Arc::new(View::new())],
    };
    let history: Vec<State> = (0..5).map(state).collect();
    let shows = |n| Sighting {
        name: "s".into(),
        begun: 22,
        done: 32,
        found: BTreeMap::from([(0, vec![view(n)])]),
        deleting: AtomicBool::new(false),
    };
    let judged = [0, 1, 2, 3, 4].map(|n| judge(&shows(n), 0, &history).is_ok());
    assert_eq!(judged, [false, true, true, true, false]);
}

#[test]
fn a_number_ahead_of_the_one_before_it_is_caught() {
    let number = |n: u64| Seen::File(Arc::new(n.to_le_bytes().to_vec()));
    let shows = |a, b, c| Sighting {
        name: "s".into(),
        begun: 0,
        done: 1,
        found: BTreeMap::from([
            (0, vec![View::from([("/A".into(), number(a)), ("/B".into(), number(b))])]),
            (1, vec![View::from([("/C".into(), number(c))])]),
        ]),
        deleting: AtomicBool::new(false),
    };
    for (numbers, right) in [((2, 2, 2), true), ((3, 2, 2), true), ((3, 3, 2), true)] {
        let (a, b, c) = numbers;
        assert_eq!(judge_counters(&shows(a, b, c), 0).is_ok(), right, "{numbers:?}");
    }
    for (a, b, c) in [(2, 3, 2), (4, 2, 2), (3, 2, 1), (2, 2, 3)] {
        assert!(judge_counters(&shows(a, b, c), 0).is_err(), "{a} {b} {c}");
    }
}
