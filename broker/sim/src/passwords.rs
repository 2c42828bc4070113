//! The program's side of passwords: who is asked by the shards, and answers when the run wants it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ringtide_shard::access::Ticket;
use ringtide_shard::password::{Answer, Passwords, Question};

use crate::clock::SimClock;
use crate::random::Random;
use crate::trace::Trace;

/// Must see everything from the first on.
const OBSERVER: &str = "client-0";

/// How passwords are judged in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judging {
    /// Most microseconds that an answer takes.
    pub(crate) delay_max_us: u64,
    /// How many of a thousand are told that the broker is busy.
    pub(crate) busy: u32,
}

/// The only right password of a user.
pub(crate) fn password_of(user: &str) -> Vec<u8> {
    format!("password of {user}").into_bytes()
}

/// Who judges for one shard, as the run sees it.
#[derive(Debug)]
pub(crate) struct Judge {
    judging: Judging,
    random: Random,
    /// Answers, and when each is there.
    answers: VecDeque<(u64, Ticket, Answer)>,
}

impl Judge {
    pub(crate) fn new(judging: Judging, seed: u64, concern: &str) -> Rc<RefCell<Judge>> {
        let random = Random::stream(seed, concern);
        Rc::new(RefCell::new(Judge { judging, random, answers: VecDeque::new() }))
    }

    /// When the shard is woken for an answer.
    pub(crate) fn due_us(&self) -> Option<u64> {
        self.answers.front().map(|(due_us, ..)| *due_us)
    }

    /// From now on nobody is told that the broker is busy.
    pub(crate) fn calm(&mut self) {
        self.judging.busy = 0;
    }
}

/// The same as the shard sees it.
#[derive(Debug)]
pub(crate) struct SimPasswords {
    pub(crate) judge: Rc<RefCell<Judge>>,
    pub(crate) clock: SimClock,
    pub(crate) trace: Trace,
}

impl Passwords for SimPasswords {
    fn ask(&mut self, ticket: Ticket, question: &Question<'_>) -> Option<Answer> {
        let Judge { judging, random, answers } = &mut *self.judge.borrow_mut();
        let right = question.password == Some(&*password_of(question.username));
        let answer = match right {
            _ if random.chance(judging.busy) && question.username != OBSERVER => Answer::Busy,
            true => Answer::Right,
            false => Answer::Wrong,
        };
        let known = random.chance(250);
        let due_us = self.clock.us() + random.below(judging.delay_max_us + 1);
        // In order: answers of one shard come by one channel.
        let due_us = answers.back().map_or(due_us, |(last_us, ..)| due_us.max(*last_us));
        self.trace.event(
            [70, ticket.0, due_us, answer as u64],
            format_args!("{:?} asked: {answer:?}, known: {known}, due {due_us}", question.username),
        );
        if known {
            return Some(answer);
        }
        answers.push_back((due_us, ticket, answer));
        None
    }

    fn answer(&mut self) -> Option<(Ticket, Answer)> {
        let now_us = self.clock.us();
        let answers = &mut self.judge.borrow_mut().answers;
        let (_, ticket, answer) = answers.pop_front_if(|(due_us, ..)| *due_us <= now_us)?;
        Some((ticket, answer))
    }
}
