//! Every way of balancing against the same expectations.

use proptest::prelude::*;

use super::rendezvous::highest;
use super::schedule::Schedule;
use super::*;

pub(super) fn candidate(in_flight: u32) -> Candidate {
    Candidate {
        id: 1,
        in_flight,
        free: true,
        weight: 1,
        share: FULL_SHARE,
        backup: false,
        condition: Condition::Well,
        drawback: Drawback::None,
    }
}

pub(super) fn list_of(list: &[Candidate]) -> impl Fn(usize) -> Option<Candidate> {
    |index| list.get(index).copied()
}

/// What each way of balancing chooses.
fn choices(list: &[Candidate], turn: usize) -> [Option<(usize, Candidate)>; 4] {
    let at = list_of(list);
    let schedule = Schedule::new(list.iter().map(|c| c.weight));
    let random = chance::mix(turn as u64);
    let heaviest = list.iter().filter(|c| !c.backup).map(|c| c.weight).max().unwrap_or_default();
    let least = idle(&at, list.len(), heaviest, random).or_else(|| least_conn(&at, turn));
    [least, schedule.next(turn, &at), two_choices(&at, list.len(), random), highest(&at, random)]
}

#[test]
fn the_least_loaded_wins_and_equals_take_turns() {
    let list = [candidate(2), candidate(1), candidate(1)];
    let chosen: Vec<_> = (0..4).map(|turn| least_conn(&list_of(&list), turn).unwrap().0).collect();
    assert_eq!(chosen, [1, 2, 1, 2]);
}

#[test]
fn counts_that_change_meanwhile_leave_somebody_to_choose() {
    let reads = std::cell::Cell::new(0);
    let at = |index| {
        reads.set(reads.get() + 1);
        (index < 2).then(|| candidate(reads.get()))
    };
    assert!(least_conn(&at, 0).is_some());
    assert!(two_choices(&at, 2, 0).is_some());
    assert!(highest(&at, 0).is_some());
    // Nor is anybody made up who filled up in between.
    for last_free in 0..12 {
        let reads = std::cell::Cell::new(0);
        let at = |index| {
            reads.set(reads.get() + 1);
            (index < 2).then(|| Candidate { free: reads.get() <= last_free, ..candidate(0) })
        };
        let schedule = Schedule::new([1, 1].into_iter());
        for chosen in [least_conn(&at, 1), two_choices(&at, 2, 0), highest(&at, 0), schedule.next(0, &at)] {
            reads.set(0);
            assert!(chosen.is_none_or(|(index, c)| index < 2 && c.free));
        }
    }
}

#[test]
fn load_is_weighed() {
    let list = [Candidate { weight: 1, ..candidate(1) }, Candidate { weight: 4, ..candidate(4) }];
    assert_eq!(least_conn(&list_of(&list), 0).unwrap().0, 1);
    let heaviest = Candidate { weight: u32::MAX, in_flight: u32::MAX, ..candidate(0) };
    assert!(least_conn(&list_of(&[heaviest, heaviest]), 0).is_some());
}

#[test]
fn who_starts_slowly_counts_for_less() {
    let slow = Candidate { share: 100, ..candidate(0) };
    assert_eq!(least_conn(&list_of(&[slow, candidate(8)]), 0).unwrap().0, 1);
    assert_eq!(least_conn(&list_of(&[slow, candidate(10)]), 0).unwrap().0, 0);
}

#[test]
fn backups_and_the_unhealthy_come_last_but_come() {
    let backup = Candidate { backup: true, ..candidate(0) };
    let down = Candidate { condition: Condition::Unhealthy, ..candidate(0) };
    let ejected = Candidate { condition: Condition::Ejected, ..candidate(0) };
    let tried = Candidate { drawback: Drawback::Tried, ..candidate(0) };
    let out = Candidate { condition: Condition::Out, ..candidate(0) };
    let busy = Candidate { free: false, ..candidate(9) };
    for (list, expected) in [
        (vec![backup, candidate(9)], Some(1)),
        (vec![down, backup], Some(1)),
        (vec![down, Candidate { backup: true, ..down }], Some(0)),
        (vec![ejected, down], Some(1)),
        (vec![ejected, out], Some(0)),
        (vec![tried, candidate(9)], Some(1)),
        (vec![backup, tried], Some(1)),
        (vec![down, tried], Some(1)),
        (vec![out, down], Some(1)),
        (vec![out, tried, down], Some(1)),
        // Busy is not down.
        (vec![busy, backup], None),
        (vec![busy, down], None),
        (vec![busy, tried], Some(1)),
        (vec![out, Candidate { condition: Condition::Unhealthy, ..busy }, backup], Some(2)),
        (vec![out, out], None),
        (vec![], None),
    ] {
        for chosen in choices(&list, 7) {
            assert_eq!(chosen.map(|c| c.0), expected, "{list:?}");
        }
    }
}

#[test]
fn among_many_an_idle_one_is_found_without_a_look_at_all_and_each_is_as_likely() {
    let mut list = vec![candidate(0); 100];
    list[..50].iter_mut().for_each(|busy| busy.in_flight = 1);
    list.push(Candidate { weight: 2, backup: true, ..candidate(0) });
    let (looks, mut misses, mut counts) = (std::cell::Cell::new(0), 0, [0_u32; 101]);
    let at = |index| {
        looks.set(looks.get() + 1);
        list_of(&list)(index)
    };
    for n in 0..10_000 {
        match idle(&at, list.len(), 1, chance::mix(n)) {
            Some((index, _)) => counts[index] += 1,
            None => misses += 1,
        }
    }
    assert!(looks.get() < 25_000 && misses < 100, "{} looks, {misses} misses", looks.get());
    assert!(counts[..50].iter().all(|count| *count == 0) && counts[100] == 0);
    assert!(counts[50..100].iter().all(|count| (130..270).contains(count)), "{counts:?}");
}

#[test]
fn two_choices_spread_over_all_and_avoid_the_heaviest() {
    let list = [candidate(0), candidate(0), candidate(0), candidate(5)];
    let mut counts = [0_u32; 4];
    (0..3000).for_each(|n| counts[two_choices(&list_of(&list), list.len(), chance::mix(n)).unwrap().0] += 1);
    assert!(counts[..3].iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    assert_eq!(counts[3], 0, "it loses against any other");
    // Nor does who is next to one that is not in question get more.
    let backup = Candidate { backup: true, ..candidate(0) };
    for list in [[backup, candidate(0), candidate(0), candidate(0)], [candidate(0), candidate(0), candidate(0), backup]]
    {
        let mut counts = [0_u32; 4];
        let choice = |n| two_choices(&list_of(&list), list.len(), chance::mix(n)).unwrap().0;
        (0..3000).for_each(|n| counts[choice(n)] += 1);
        assert_eq!(counts.iter().filter(|count| (900..1100).contains(*count)).count(), 3, "{counts:?}");
    }
    let alone = [candidate(5)];
    assert_eq!(two_choices(&list_of(&alone), 1, 99).unwrap().0, 0);
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let condition =
        prop::sample::select(vec![Condition::Well, Condition::Unhealthy, Condition::Ejected, Condition::Out]);
    let drawback = prop::sample::select(vec![Drawback::None, Drawback::Reluctant, Drawback::Tried]);
    (
        (0_u32..20, 1_u32..3, prop_oneof![Just(FULL_SHARE), 1_u16..=FULL_SHARE]),
        condition,
        any::<[bool; 2]>(),
        drawback,
        any::<u64>(),
    )
        .prop_map(|((in_flight, weight, share), condition, [free, backup], drawback, id)| Candidate {
            id,
            in_flight,
            free,
            weight,
            share,
            backup,
            condition,
            drawback,
        })
}

proptest! {
    #[test]
    fn all_agree_on_who_is_in_question(list in prop::collection::vec(any_candidate(), 0..12), turn: usize) {
        let best = list.iter().filter_map(Candidate::class).min();
        let fit = |c: &Candidate| best.is_some_and(|best| c.fits(best));
        let least = list.iter().filter(|c| fit(c)).map(|c| c.drawback).min();
        for chosen in choices(&list, turn) {
            prop_assert_eq!(chosen.is_some(), least.is_some());
            if let Some((index, chosen)) = chosen {
                prop_assert_eq!(chosen, list[index]);
                prop_assert!(fit(&chosen));
                prop_assert_eq!(Some(chosen.drawback), least);
            }
        }
    }

    #[test]
    fn nobody_lighter_is_passed_over(list in prop::collection::vec(any_candidate(), 0..30), turn: usize) {
        if let Some((_, chosen)) = choices(&list, turn)[0] {
            for other in list.iter().filter(|c| c.fits((chosen.condition, chosen.backup))) {
                prop_assert!(!other.before(&chosen));
            }
        }
    }
}
