//! Conditions of any kind: judged once, written in a fixed order, with transition times that move only
//! with the status; and the changes among them that are worth an event. Pure.
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use windlass_crds::conditions::{Reason, condition};

/// The API allows a note of 1 KiB in an event.
const MAX_NOTE: usize = 900;

/// What a condition says: `True`, `False` or `Unknown`, why, and a sentence with the next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub status: &'static str,
    pub reason: Reason,
    pub message: String,
}

impl Judgement {
    /// The condition holds.
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self::new("True", reason, message)
    }

    /// It does not.
    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self::new("False", reason, message)
    }

    /// It has not been observed yet.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new("Unknown", Reason::Pending, message)
    }

    fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    /// Whether the condition holds.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }

    /// What a stored condition says; `None` when it has a reason or status that this program does not know.
    pub fn of(condition: &Condition) -> Option<Self> {
        let status = ["True", "False", "Unknown"]
            .into_iter()
            .find(|known| *known == condition.status)?;
        Some(Self::new(
            status,
            Reason::parse(&condition.reason)?,
            condition.message.clone(),
        ))
    }
}

/// Judgements by condition type.
#[derive(Debug, Clone, Default)]
pub struct Judged(Vec<(&'static str, Judgement)>);

impl Judged {
    /// Judges one type.
    pub fn set(&mut self, type_: &'static str, judgement: Judgement) {
        self.0.push((type_, judgement));
    }

    /// What was judged about a type.
    pub fn get(&self, type_: &str) -> Option<&Judgement> {
        self.0
            .iter()
            .find(|(judged, _)| *judged == type_)
            .map(|(_, judgement)| judgement)
    }

    /// The conditions in the order of `types`; a type that was not judged keeps what it said, or is Unknown.
    pub fn into_conditions(
        self,
        types: &[&'static str],
        previous: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Vec<Condition> {
        let whole_seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let condition = |type_: &&'static str| {
            let before = find(previous, type_);
            let judged = self.get(type_).cloned();
            let judged = judged.or_else(|| before.and_then(Judgement::of));
            let judged = judged.unwrap_or_else(|| Judgement::unknown("not observed yet"));
            let unchanged = before.filter(|before| before.status == judged.status);
            Condition {
                type_: (*type_).to_owned(),
                status: judged.status.to_owned(),
                reason: judged.reason.as_str().to_owned(),
                message: judged.message,
                observed_generation: generation,
                last_transition_time: unchanged
                    .map_or(Time(whole_seconds), |before| before.last_transition_time.clone()),
            }
        };
        types.iter().map(condition).collect()
    }
}

/// The judgements of an object that cannot be built: nothing is done until it is edited, and what was known
/// about its children stays.
pub fn refused(reason: Reason, message: &str) -> Judged {
    let mut judged = Judged::default();
    judged.set(condition::READY, Judgement::no(reason, message));
    judged.set(condition::ACCEPTED, Judgement::no(reason, message));
    judged.set(condition::STALLED, Judgement::yes(reason, message));
    let rest = Judgement::no(Reason::Settled, "nothing is done until the spec is corrected");
    judged.set(condition::RECONCILING, rest);
    judged
}

/// A change that people may want to hear about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub is_warning: bool,
    pub reason: String,
    pub note: String,
}

/// The changes that are worth an event: a condition that became bad for a new reason, or good.
pub fn edges(previous: &[Condition], next: &[Condition]) -> Vec<Edge> {
    let mut edges: Vec<Edge> = Vec::new();
    for now in next {
        let before = find(previous, &now.type_);
        if before.is_some_and(|before| before.status == now.status && before.reason == now.reason) {
            continue;
        }
        let is_good =
            [condition::READY, condition::MODEL_VERIFIED].contains(&now.type_.as_str()) && now.status == "True";
        let is_abnormal = [condition::RECONCILING, condition::STALLED].contains(&now.type_.as_str());
        let is_bad = now.status == if is_abnormal { "True" } else { "False" }
            && Reason::parse(&now.reason).is_some_and(Reason::is_problem);
        if !(is_good || is_bad) || edges.iter().any(|edge| edge.reason == now.reason) {
            continue;
        }
        edges.push(Edge {
            is_warning: is_bad,
            reason: if is_good { now.type_.clone() } else { now.reason.clone() },
            note: now.message.chars().take(MAX_NOTE).collect(),
        });
    }
    edges
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition exists and is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn ready(judgement: Judgement, previous: &[Condition], now: i64) -> Vec<Condition> {
        let mut judged = Judged::default();
        judged.set(condition::READY, judgement);
        judged.into_conditions(&[condition::READY, condition::AVAILABLE], previous, Some(1), at(now))
    }

    #[test]
    fn the_transition_time_moves_with_the_status_and_with_nothing_else() {
        let first = ready(Judgement::no(Reason::Downloading, "a"), &[], 10);
        let second = ready(Judgement::no(Reason::EngineStarting, "b"), &first, 20);
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        assert_eq!(
            (second[0].reason.as_str(), second[0].message.as_str()),
            ("EngineStarting", "b")
        );
        let third = ready(Judgement::yes(Reason::Serving, "c"), &second, 30);
        assert_eq!(third[0].last_transition_time.0, at(30));
    }

    #[test]
    fn a_type_that_was_not_judged_keeps_what_it_said() {
        let first = ready(Judgement::no(Reason::Downloading, "a"), &[], 10);
        assert_eq!(
            (first[1].type_.as_str(), first[1].status.as_str()),
            ("Available", "Unknown")
        );
        let mut before = first.clone();
        before[1].status = "True".into();
        before[1].reason = "Serving".into();
        let kept = ready(Judgement::no(Reason::Invalid, "b"), &before, 20);
        assert_eq!((kept[1].status.as_str(), kept[1].reason.as_str()), ("True", "Serving"));
    }

    #[test]
    fn problems_and_arrivals_are_events_and_progress_is_not() {
        let downloading = ready(Judgement::no(Reason::Downloading, "a"), &[], 10);
        assert_eq!(edges(&[], &downloading), []);
        let failed = ready(Judgement::no(Reason::NoSpace, "full"), &downloading, 20);
        let reasons = |edges: Vec<Edge>| edges.into_iter().map(|e| (e.is_warning, e.reason)).collect::<Vec<_>>();
        assert_eq!(reasons(edges(&downloading, &failed)), [(true, "NoSpace".to_owned())]);
        assert_eq!(edges(&failed, &failed), []);
        let serving = ready(Judgement::yes(Reason::Serving, "ok"), &failed, 30);
        assert_eq!(reasons(edges(&failed, &serving)), [(false, "Ready".to_owned())]);
    }
}
