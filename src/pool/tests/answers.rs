//! Requests that were carried out are known to the next process, and to no other.

use super::*;
use crate::format::{Answer, RequestId};

fn request(unique: u64) -> RequestId {
    RequestId { session: 7, unique }
}

/// As after the process of a mount's daemon has died.
fn reopened(storage: &Storage, pool: Arc<Pool>) -> Arc<Pool> {
    pool.abandon();
    drop(pool);
    Pool::open(storage.clone(), OpenOptions { keep_answers: true, ..open_options() }).unwrap()
}

/// Carries a request out by one commit, and calls `before_reply`.
fn carry_out(pool: &Pool, unique: u64, result: u64, before_reply: impl FnOnce()) {
    pool.carry_out(request(unique), || {
        let volume = pool.volume("main").unwrap();
        let mut update = volume.update(Intent::Grow).unwrap();
        update.completes(result);
        let key = Key::new(unique, KeyKind::Xattr, 0);
        update.commit(vec![Edit::Put { key, value: vec![1] }]).unwrap();
        before_reply();
    });
}

#[test]
fn the_next_process_knows_what_was_carried_out() {
    let (storage, pool, volume) = new_pool(64 << 20);
    drop(volume);
    carry_out(&pool, 2, 55, || {});
    pool.carry_out(request(4), || put(&pool.volume("main").unwrap(), 100, b"one of several"));
    pool.carry_out(request(6), || ());
    pool.carry_out(request(8), || {
        pool.aside(|| {
            let volume = pool.volume("main").unwrap();
            let mut update = volume.update(Intent::Grow).unwrap();
            update.completes(1);
            update.commit(Vec::new()).unwrap();
        });
    });
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), Some(55));
    assert_eq!(pool.answer_to(request(4)), None, "its last commit was not made");
    assert_eq!(pool.answer_to(request(6)), None);
    assert_eq!(pool.answer_to(request(8)), None, "only a part of it was done");
    assert_eq!(pool.answer_to(RequestId { session: 8, unique: 2 }), None);
}

#[test]
fn requests_that_one_commit_completes_are_all_known() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let answers = [2, 4, 6].map(|unique| Answer { request: request(unique), result: unique * 10 });
    pool.carry_out_together(&answers, || {
        let mut update = volume.update(Intent::Grow).unwrap();
        update.completes_together(&answers);
        let key = Key::new(9, KeyKind::Xattr, 0);
        update.commit(vec![Edit::Put { key, value: vec![1] }]).unwrap();
        // Its record is given up, and the requests are kept: their replies may not have been sent.
        pool.checkpoint().unwrap();
    });
    let pool = {
        drop(volume);
        reopened(&storage, pool)
    };
    for unique in [2, 4, 6] {
        assert_eq!(pool.answer_to(request(unique)), Some(unique * 10));
    }
    // Once they have been sent, a checkpoint forgets them.
    let volume = pool.volume("main").unwrap();
    pool.carry_out_together(&answers, || {
        let mut update = volume.update(Intent::Grow).unwrap();
        update.completes_together(&answers[..1]);
        update.commit(Vec::new()).unwrap();
    });
    drop((pool.earlier_answers(), volume));
    pool.checkpoint().unwrap();
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), None);
}

#[test]
fn the_record_and_its_answer_are_there_together() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let snapshot = pool.carry_out(request(2), || pool.create_snapshot(volume.id(), "s").unwrap());
    drop(volume);
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), Some(snapshot.member.0));
    assert!(pool.snapshot(pool.volume("main").unwrap().id(), "s").is_ok());
}

#[test]
fn a_checkpoint_before_the_reply_loses_no_answer() {
    let (storage, pool, volume) = new_pool(64 << 20);
    drop(volume);
    let mut answered = None;
    carry_out(&pool, 2, 55, || {
        pool.checkpoint().unwrap();
        // The journal before it may be written over now.
        answered = Some(storage.journal.len_bytes().unwrap());
        let copy = Storage::memory();
        copy_device(&*storage.superblock, &*copy.superblock);
        copy_device(&*storage.journal, &*copy.journal);
        copy_device(&*storage.data, &*copy.data);
        let options = OpenOptions { keep_answers: true, ..open_options() };
        let successor = Pool::open(copy, options).unwrap();
        assert_eq!(successor.answer_to(request(2)), Some(55));
    });
    assert!(answered.is_some());
    // When the reply has been sent it is not kept beyond the next checkpoint.
    put(&pool.volume("main").unwrap(), 100, b"x");
    pool.checkpoint().unwrap();
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), None);
}

#[test]
fn what_was_found_outlives_checkpoints_until_it_is_forgotten() {
    let (storage, mut pool, volume) = new_pool(64 << 20);
    drop(volume);
    carry_out(&pool, 2, 55, || {});
    for round in 0..3 {
        pool = reopened(&storage, pool);
        assert_eq!(pool.answer_to(request(2)), Some(55), "round {round}");
        put(&pool.volume("main").unwrap(), 100, b"x");
        pool.checkpoint().unwrap();
    }
    let (one, other) = (pool.earlier_answers(), pool.earlier_answers());
    drop(one);
    assert_eq!(pool.answer_to(request(2)), Some(55));
    drop(other);
    assert_eq!(pool.answer_to(request(2)), None);
    put(&pool.volume("main").unwrap(), 100, b"y");
    pool.checkpoint().unwrap();
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), None);
}

#[test]
fn an_operation_that_fails_is_no_answer() {
    let (storage, pool, volume) = new_pool(64 << 20);
    pool.create_snapshot(volume.id(), "s").unwrap();
    pool.carry_out(request(2), || pool.create_snapshot(volume.id(), "s").unwrap_err());
    drop(volume);
    let pool = reopened(&storage, pool);
    assert_eq!(pool.answer_to(request(2)), None);
}

fn copy_device(from: &dyn crate::device::BlockDevice, to: &dyn crate::device::BlockDevice) {
    let mut bytes = vec![0; from.len_bytes().unwrap() as usize];
    from.read_at(0, &mut bytes).unwrap();
    to.write_at(0, &bytes).unwrap();
}
