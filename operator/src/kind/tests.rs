//! A second, tiny kind goes through the whole driver: what it takes to add one, and that none of the machinery
//! knows ModelDeployment.
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{CustomResource, KubeSchema, runtime::controller::Action};
use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass_crds::conditions::{Reason, condition};

use super::{conditions::Judgement, world::World, *};
use crate::model_deployment::{ModelDeployments, fixtures};

/// A note becomes a ConfigMap with its text.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "windlass.dev",
    version = "v1alpha1",
    kind = "Note",
    namespaced,
    status = "NoteStatus",
    cel
)]
pub struct NoteSpec {
    /// The text.
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self != 'refused'").message("the text must not be refused"))]
    pub text: String,
}

/// What was observed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NoteStatus {
    observed_generation: Option<i64>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

impl Status for NoteStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn observe(&mut self, generation: Option<i64>, conditions: Vec<Condition>) {
        self.observed_generation = generation;
        self.conditions = conditions;
    }
}

impl Contract for Note {
    const EMBEDDED: &'static [&'static str] = &[];
}

struct Notes;

impl Kind for Notes {
    type Object = Note;
    type Valid = (Owner, String);
    type Decision = String;
    type Status = NoteStatus;

    const SUFFIX: &'static str = "note";
    const LABEL: &'static str = "windlass.dev/note";
    const CONDITIONS: &'static [&'static str] = &[
        condition::READY,
        condition::RECONCILING,
        condition::STALLED,
        condition::ACCEPTED,
    ];

    fn children_kinds() -> Vec<ChildKind> {
        vec![ChildKind::of::<ConfigMap>()]
    }

    fn validate(object: &Note, owner: Owner) -> Result<Self::Valid, Problems> {
        let as_json = serde_json::to_value(object).map_err(|error| Problems(vec![error.to_string()]))?;
        schema::check_rules::<Note>(&as_json, None).map_err(Problems)?;
        Ok((owner, object.spec.text.clone()))
    }

    fn made(_: &Owner, _: &Pod) -> bool {
        false
    }

    fn decide((_, text): &Self::Valid, _: &Observed, _: &Settings, _: Timestamp) -> Result<String, serde_json::Error> {
        Ok(text.to_uppercase())
    }

    fn children((owner, _): &Self::Valid, text: &String, _: &Settings) -> Result<Vec<Intent>, serde_json::Error> {
        let config_map = |name: String, text: &str| ConfigMap {
            metadata: owner.metadata(name),
            data: Some([("text".to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        };
        let mut children = vec![Intent::of(&config_map(owner.child(), text))?];
        if text == "TWICE" {
            children.push(Intent::of(&config_map(owner.child_for("copy"), text))?);
        }
        Ok(children)
    }

    fn report(situation: &Situation<Self>) -> Report<NoteStatus> {
        let mut conditions = Judged::default();
        let is_there = situation.applied.conflicts.is_empty();
        for type_ in [condition::READY, condition::ACCEPTED] {
            conditions.set(
                type_,
                match is_there {
                    true => Judgement::yes(Reason::Serving, "the note is there"),
                    false => Judgement::no(Reason::NameConflict, situation.applied.conflicts.join(", ")),
                },
            );
        }
        conditions.set(
            condition::STALLED,
            Judgement::no(Reason::Settled, "nothing is in the way"),
        );
        conditions.set(
            condition::RECONCILING,
            match is_there {
                true => Judgement::no(Reason::Settled, "done"),
                false => Judgement::yes(Reason::NameConflict, "a name is taken"),
            },
        );
        Report {
            status: NoteStatus::default(),
            conditions,
            look: Look::Settled,
        }
    }

    fn reporters(_: &Self::Valid, _: &String, _: &Observed) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn stuck<'a>(_: &Self::Valid, _: &'a Observed, _: Timestamp) -> Option<&'a Pod> {
        None
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/ns/configmaps";

fn note(text: &str) -> World<Notes> {
    World::new(json!({"text": text}), fixtures::settings())
}

#[tokio::test]
async fn a_kind_that_the_machinery_has_never_heard_of_goes_through_the_whole_driver() {
    let world = note("hello");
    let action = world.reconcile().await.expect("children");
    assert_eq!(action, Action::requeue(Duration::from_secs(720)));
    let child = world.api.get(&format!("{CONFIG_MAPS}/chat-note")).expect("child");
    assert_eq!(child["data"]["text"], "HELLO");
    assert_eq!(child["metadata"]["labels"]["windlass.dev/note"], "chat");
    assert_eq!(
        world.condition(condition::READY),
        ("True".to_owned(), "Serving".to_owned())
    );
    assert_eq!(world.object()["status"]["observedGeneration"], 1);
    assert_eq!(world.api.take_events(), ["Ready"]);

    world.api.take_writes();
    world.restarted().reconcile().await.expect("again");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());

    let text = world.context.metrics.encode().expect("text");
    assert!(
        text.contains("windlass_operator_reconciles_total{kind=\"Note\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn children_that_are_no_longer_intended_are_deleted_and_foreign_ones_stay() {
    let world = note("twice");
    world.reconcile().await.expect("two children");
    assert!(world.api.get(&format!("{CONFIG_MAPS}/chat-note-copy")).is_some());
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": "ns",
        "labels": {"app.kubernetes.io/managed-by": "windlass", "windlass.dev/note": "chat"}}});
    world.api.put(&format!("{CONFIG_MAPS}/theirs"), theirs);
    world.edit(json!({"text": "once"}));
    world.reconcile().await.expect("one child");
    assert!(world.api.get(&format!("{CONFIG_MAPS}/chat-note-copy")).is_none());
    assert!(world.api.get(&format!("{CONFIG_MAPS}/theirs")).is_some());
}

#[tokio::test]
async fn a_second_reconcile_knows_what_the_first_one_wrote_before_any_watch_shows_it() {
    let world = note("hello");
    world.reconcile().await.expect("children");
    world.api.take_writes();
    world.reconcile_as_seen().await.expect("again");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn objects_of_different_kinds_with_the_same_name_share_no_child() {
    let model = World::<ModelDeployments>::new(json!({"model": {"source": fixtures::SOURCE}}), fixtures::settings());
    model.reconcile().await.expect("model");
    let names = |writes: Vec<String>| {
        writes
            .into_iter()
            .filter(|write| !write.ends_with("/status"))
            .collect::<BTreeSet<_>>()
    };
    let of_model = names(model.api.take_writes());
    let note = note("hello");
    note.reconcile().await.expect("note");
    let of_note = names(note.api.take_writes());
    assert!(of_model.is_disjoint(&of_note), "{of_model:?} {of_note:?}");
}

#[tokio::test]
async fn an_object_that_is_refused_or_cannot_be_read_is_stalled_and_its_children_stay() {
    for (spec, reason) in [
        (json!({"text": "refused"}), "Invalid"),
        (json!({"text": 7}), "Unreadable"),
    ] {
        let world = note("hello");
        world.reconcile().await.expect("valid");
        world.edit(spec);
        world.api.take_writes();
        for _ in 0..2 {
            world.reconcile().await.expect("refused");
        }
        assert_eq!(
            world.api.take_writes(),
            [format!("PATCH {}/status", World::<Notes>::path())]
        );
        for type_ in [condition::READY, condition::ACCEPTED] {
            assert_eq!(world.condition(type_), ("False".to_owned(), reason.to_owned()));
        }
        assert_eq!(world.condition(condition::STALLED).0, "True");
        assert_eq!(world.condition(condition::RECONCILING).0, "False");
        assert!(world.api.get(&format!("{CONFIG_MAPS}/chat-note")).is_some());
    }
}

#[tokio::test]
async fn a_name_that_is_taken_stops_everything_and_its_holder_stays_untouched() {
    let world = note("twice");
    let path = format!("{CONFIG_MAPS}/chat-note-copy");
    let theirs =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chat-note-copy", "namespace": "ns"}});
    world.api.put(&path, theirs);
    let before = world.api.get(&path);
    world.reconcile().await.expect("conflict");
    assert_eq!(
        world.api.take_writes(),
        [format!("PATCH {}/status", World::<Notes>::path())]
    );
    assert_eq!(world.api.get(&path), before);
    assert_eq!(world.condition(condition::READY).1, "NameConflict");
}
