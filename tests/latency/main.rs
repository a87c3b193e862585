//! What benches/latency makes of its samples; benchmarks have no test harness of their own.

#[path = "../../benches/latency/samples.rs"]
mod samples;

use std::time::Duration;

use samples::{Cause, Probe, STALL, Sample, Summary, percentile};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// From one millisecond of the run to another.
fn sample(begun: u64, ended: u64) -> Sample {
    Sample { begun: ms(begun), took: ms(ended - begun) }
}

#[test]
fn so_many_of_a_thousand_do_not_exceed_a_percentile() {
    let times: Vec<Duration> = (1..=1000).map(ms).collect();
    assert_eq!(percentile(&times, 1), Some(ms(1)));
    assert_eq!(percentile(&times, 500), Some(ms(500)));
    assert_eq!(percentile(&times, 990), Some(ms(990)));
    assert_eq!(percentile(&times, 999), Some(ms(999)));
    assert_eq!(percentile(&times, 1000), Some(ms(1000)));
}

#[test]
fn a_percentile_of_few_times_is_one_of_them() {
    assert_eq!(percentile(&[], 500), None);
    assert_eq!(percentile(&[ms(7)], 1), Some(ms(7)));
    assert_eq!(percentile(&[ms(7)], 999), Some(ms(7)));
    let two = [ms(3), ms(9)];
    assert_eq!(percentile(&two, 500), Some(ms(3)));
    assert_eq!(percentile(&two, 501), Some(ms(9)));
    // The hundredth of a hundred is the first that 99.9 % do not exceed.
    let hundred: Vec<Duration> = (1..=100).map(ms).collect();
    assert_eq!(percentile(&hundred, 990), Some(ms(99)));
    assert_eq!(percentile(&hundred, 999), Some(ms(100)));
}

#[test]
fn only_what_goes_on_at_one_time_overlaps() {
    let stall = sample(100, 200);
    for meanwhile in [sample(0, 101), sample(120, 130), sample(199, 300), sample(0, 300), stall] {
        assert!(stall.overlaps(meanwhile) && meanwhile.overlaps(stall), "{meanwhile:?}");
    }
    for apart in [sample(0, 100), sample(200, 300), sample(0, 50), sample(250, 300)] {
        assert!(!stall.overlaps(apart) && !apart.overlaps(stall), "{apart:?}");
    }
}

fn writes(writes: &[Sample]) -> Probe {
    Probe { writes: writes.to_vec(), waits: Vec::new() }
}

#[test]
fn the_disk_imposes_a_stall_when_it_took_half_as_long_meanwhile() {
    let cause = |probed: &[Sample]| sample(100, 200).cause(&writes(probed));
    assert_eq!(cause(&[sample(60, 110)]), Cause::Disk);
    assert_eq!(cause(&[sample(0, 10), sample(90, 110), sample(190, 250)]), Cause::Disk);
    assert_eq!(cause(&[sample(61, 110)]), Cause::None, "less than half as long");
    let two = [sample(90, 130), sample(150, 160)];
    assert_eq!(cause(&two), Cause::None, "half as long together");
    assert_eq!(cause(&[sample(0, 100), sample(200, 900)]), Cause::None, "before and after it");
    assert_eq!(cause(&[]), Cause::None);
}

#[test]
fn the_machine_imposes_a_stall_when_the_probe_waited_and_the_disk_was_fast() {
    let wait = vec![sample(90, 140)];
    let cause = |probed: &[Sample]| {
        sample(100, 200).cause(&Probe { waits: wait.clone(), ..writes(probed) })
    };
    assert_eq!(cause(&[sample(140, 141)]), Cause::Machine);
    assert_eq!(cause(&[sample(140, 190)]), Cause::Disk);
    assert_eq!(sample(140, 240).cause(&Probe { waits: wait.clone(), ..writes(&[]) }), Cause::None);
}

#[test]
fn the_longest_beside_is_one_that_overlaps() {
    let probe = [sample(0, 99), sample(95, 105), sample(150, 190), sample(200, 400)];
    assert_eq!(sample(100, 200).longest_beside(&probe), ms(40));
    assert_eq!(sample(99, 199).longest_beside(&[]), Duration::ZERO);
}

#[test]
fn a_summary_counts_stalls_and_what_imposed_them() {
    // At 50 ms it is none yet.
    let few = [sample(0, 1), sample(10, 60), sample(1000, 1051), sample(2000, 2200)];
    assert_eq!(few.map(Sample::is_stall), [false, false, true, true]);
    let probe = Probe { writes: vec![sample(2100, 2250)], waits: vec![sample(1000, 1030)] };
    let expected = Summary {
        count: 4,
        p50: STALL,
        p99: ms(200),
        p999: ms(200),
        max: ms(200),
        stalls: 2,
        by_disk: 1,
        by_machine: 1,
    };
    assert_eq!(Summary::of(&few, &probe), Some(expected));
    let unexplained = Summary { by_disk: 0, by_machine: 0, ..expected };
    assert_eq!(Summary::of(&few, &Probe::default()), Some(unexplained));
    assert_eq!(Summary::of(&[], &Probe::default()), None);
}
