// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rows: which sides are measured in turns, and what is made of them.

#![expect(clippy::print_stdout, reason = "a bench shows its table")]

use std::{fs, io};

use parapin::bench::{Compare, Row, Skipped};

use crate::{
    group::Group,
    harness::Bench,
    job::{Job, Ours, Sample, To, Work},
    lab::{Lab, User},
    neighbour::Neighbour,
    role::Place,
    rounds::{Round, Rounds},
};

use Compare::{Cost, SpeedUp};

fn row(name: String, unit: &'static str, compare: Compare, target: Option<f64>) -> Row {
    Row {
        name,
        unit,
        bytes: None,
        compare,
        target,
    }
}

fn seconds(name: String, bytes: u64, compare: Compare, target: Option<f64>) -> Row {
    Row {
        bytes: Some(bytes),
        ..row(name, "s", compare, target)
    }
}

/// Where the neighbours are, seen from the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Same,
    OtherSession,
    OtherGroup,
}

/// What the neighbours have beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    Nothing,
    OneThread,
    Nice19,
    Nice0,
}

impl Beside {
    const ALL: [Self; 4] = [Self::Nothing, Self::OneThread, Self::Nice19, Self::Nice0];

    fn work(self, lab: &Lab) -> Work {
        match self {
            Self::Nothing => lab.rest(),
            Self::OneThread => Work::Ours(Ours::ALONE),
            Self::Nice19 => Work::Ours(Ours::HELPED),
            Self::Nice0 => Work::Ours(Ours {
                nice: 0,
                ..Ours::HELPED
            }),
        }
    }
}

pub(crate) fn neighbour(bench: &mut Bench, lab: &Lab) {
    for (name, from) in [
        ("same", From::Same),
        ("other_session", From::OtherSession),
        ("other_group", From::OtherGroup),
    ] {
        let measure = |beside| beside_neighbours(lab, from, beside);
        let rounds = Rounds::new(&Beside::ALL, &measure);
        for (kind, beside) in [
            ("one_thread", Beside::OneThread),
            ("nice_19", Beside::Nice19),
            ("nice_0", Beside::Nice0),
        ] {
            let row = row(format!("neighbour/{name}/{kind}"), "%", Cost, None);
            rounds.row(bench, row, None, &|round| slow_down(round, beside));
        }
        if from == From::Same {
            let name = format!("neighbour/{name}/nice_19_allowed");
            rounds.row(
                bench,
                row(name, "%", Cost, Some(1.0)),
                Some(&|round| slow_down(round, Beside::OneThread) + 3.0),
                &|round| slow_down(round, Beside::Nice19),
            );
        }
        for (kind, beside) in [("nice_19", Beside::Nice19), ("nice_0", Beside::Nice0)] {
            let name = format!("neighbour/{name}/job_{kind}");
            rounds.row(
                bench,
                seconds(name, lab.bytes, SpeedUp, None),
                Some(&|round| round[&Beside::OneThread].seconds),
                &|round| round[&beside].seconds,
            );
        }
    }
}

/// Percent that the neighbours get done less than with nothing beside them.
fn slow_down(round: &Round<Beside>, beside: Beside) -> f64 {
    less(&round[&beside], &round[&Beside::Nothing])
}

fn less(busy: &Sample, alone: &Sample) -> f64 {
    (1.0 - busy.progress / alone.progress) * 100.0
}

fn beside_neighbours(lab: &Lab, from: From, beside: Beside) -> Result<Sample, Skipped> {
    let mut job = lab.job(beside.work(lab));
    let mut theirs = Place::default();
    // Held until the job is done.
    let mut groups = Vec::new();
    match from {
        From::Same => {}
        From::OtherSession => {
            let autogroup = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
            if autogroup.is_ok_and(|text| text.trim() != "1") {
                return Err(io::Error::other("autogroup is switched off").into());
            }
            // The bench's session has whatever else its user does.
            theirs.session = true;
            job.place.session = true;
        }
        From::OtherGroup => {
            // A job at the root of the hierarchy would be weighed by its threads, against their group.
            for place in [&mut theirs, &mut job.place] {
                let group = Group::new(None)?;
                place.group = Some(group.path().to_owned());
                groups.push(group);
            }
        }
    }
    let sample = lab.measure(&lab.neighbours(&theirs), &job, User::Same);
    drop(groups);
    sample
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Threads {
    One,
    WithHelpers,
    WithKeptCrew,
}

pub(crate) fn starvation(bench: &mut Bench, lab: &Lab) {
    for (target_name, target, user_name, user) in [
        ("populate", To::Populate, "root", User::Root),
        ("populate", To::Populate, "nobody", User::Nobody),
        ("io_uring", To::IoUring, "root", User::Root),
        (
            "io_uring",
            To::IoUring,
            "nobody_who_locks",
            User::NobodyWhoLocks,
        ),
    ] {
        let measure = |threads| {
            let work = Work::Ours(Ours {
                target,
                helpers: threads != Threads::One,
                kept_crew: threads == Threads::WithKeptCrew,
                ..Ours::HELPED
            });
            let neighbours = lab.neighbours(&Place::default());
            lab.measure(&neighbours, &lab.job(work), user)
        };
        let sides = [Threads::One, Threads::WithHelpers, Threads::WithKeptCrew];
        let rounds = Rounds::new(&sides, &measure);
        for (kind, threads) in [
            ("", Threads::WithHelpers),
            ("_kept_crew", Threads::WithKeptCrew),
        ] {
            let name = format!("starvation/{target_name}_{user_name}{kind}");
            rounds.row(
                bench,
                seconds(name.clone(), lab.bytes, Cost, Some(1.05)),
                Some(&|round| round[&Threads::One].seconds),
                &|round| round[&threads].seconds,
            );
            let outside = rounds.seen(threads, |sample| sample.outside);
            if let Some(median) = outside.get(outside.len() / 2) {
                println!(
                    "{name}: priority {}, {median:.3} s before and after the work",
                    rounds.priorities(threads)
                );
            }
        }
    }
}

/// What another thread maps beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mapping {
    Alone,
    BesideJob,
    BesideUnsliced,
}

pub(crate) fn mmap(bench: &mut Bench, lab: &Lab) {
    use Mapping::{Alone, BesideJob, BesideUnsliced};
    let measure = |mapping| {
        let work = match mapping {
            Alone => lab.rest(),
            BesideJob => Work::Ours(Ours::HELPED),
            BesideUnsliced => Work::Unsliced(4),
        };
        let job = Job {
            probing: true,
            ..lab.job(work)
        };
        lab.measure(&lab.neighbours(&Place::default()), &job, User::Same)
    };
    let sides = [Alone, BesideJob, BesideUnsliced];
    let rounds = Rounds::new(&sides, &measure);
    let p99: fn(&Sample) -> f64 = |sample| sample.mmap_p99;
    for (name, of) in [("p99", p99), ("max", |sample| sample.mmap_max)] {
        for (kind, baseline, value, compare) in [
            ("job", Alone, BesideJob, Cost),
            ("unsliced", Alone, BesideUnsliced, Cost),
            ("job_against_unsliced", BesideUnsliced, BesideJob, SpeedUp),
        ] {
            rounds.row(
                bench,
                row(format!("mmap/{name}_{kind}"), "ms", compare, None),
                Some(&|round| of(&round[&baseline])),
                &|round| of(&round[&value]),
            );
        }
    }
}

/// What works inside a group with a quota, beside a busy process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Inside {
    Nothing,
    OneThread,
    Capped,
    Uncapped,
}

pub(crate) fn throttle(bench: &mut Bench, lab: &Lab) {
    use Inside::{Capped, Nothing, OneThread, Uncapped};
    let measure = |inside| inside_quota(lab, inside);
    let sides = [Nothing, OneThread, Capped, Uncapped];
    let rounds = Rounds::new(&sides, &measure);
    for (kind, inside) in [
        ("one_thread", OneThread),
        ("capped", Capped),
        ("uncapped", Uncapped),
    ] {
        let periods = row(format!("throttle/periods_{kind}"), "n", Cost, None);
        rounds.row(bench, periods, None, &|round| {
            round[&inside].throttled_periods as f64
        });
        let stopped = row(format!("throttle/stopped_{kind}"), "s", Cost, None);
        rounds.row(bench, stopped, None, &|round| {
            round[&inside].throttled_seconds
        });
        let sibling = row(format!("throttle/sibling_{kind}"), "%", Cost, None);
        rounds.row(bench, sibling, None, &|round| {
            less(&round[&inside], &round[&Nothing])
        });
        let threads = rounds.seen(inside, |sample| sample.threads as f64);
        if let Some(threads) = threads.last() {
            println!(
                "throttle/{kind}: quota {} % on {} CPUs, at most {threads} threads",
                quota(lab),
                lab.cpus.len()
            );
        }
    }
    for (kind, baseline) in [("", OneThread), ("_against_uncapped", Uncapped)] {
        rounds.row(
            bench,
            seconds(format!("throttle/time{kind}"), lab.bytes, SpeedUp, None),
            Some(&|round| round[&baseline].seconds),
            &|round| round[&Capped].seconds,
        );
    }
}

/// 62.5 % of all CPUs, in percent of one.
fn quota(lab: &Lab) -> u64 {
    lab.cpus.len() as u64 * 125 / 2
}

fn inside_quota(lab: &Lab, inside: Inside) -> Result<Sample, Skipped> {
    let group = Group::new(Some(quota(lab)))?;
    let place = Place {
        group: Some(group.path().to_owned()),
        session: false,
    };
    let work = match inside {
        Inside::Nothing => lab.rest(),
        Inside::OneThread => Work::Ours(Ours::ALONE),
        Inside::Capped => Work::Ours(Ours::HELPED),
        Inside::Uncapped => Work::Uncapped,
    };
    let job = Job {
        place: place.clone(),
        ..lab.job(work)
    };
    lab.measure(&[Neighbour::new(None, place)], &job, User::Same)
}

/// How eight jobs are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Eight {
    OneByOne,
    AtOnce,
    AtOnceWithOneThread,
}

pub(crate) fn many(bench: &mut Bench, lab: &Lab) {
    use Eight::{AtOnce, AtOnceWithOneThread, OneByOne};
    let measure = |eight| {
        let work = Work::Many {
            jobs: 8,
            at_once: eight != OneByOne,
            ours: match eight {
                AtOnceWithOneThread => Ours::ALONE,
                OneByOne | AtOnce => Ours::HELPED,
            },
        };
        lab.measure(&[], &lab.job(work), User::Same)
    };
    let sides = [OneByOne, AtOnce, AtOnceWithOneThread];
    let rounds = Rounds::new(&sides, &measure);
    for (kind, baseline) in [
        ("one_by_one", OneByOne),
        ("one_thread", AtOnceWithOneThread),
    ] {
        rounds.row(
            bench,
            seconds(
                format!("many/at_once_against_{kind}"),
                lab.bytes,
                SpeedUp,
                None,
            ),
            Some(&|round| round[&baseline].seconds),
            &|round| round[&AtOnce].seconds,
        );
    }
}
