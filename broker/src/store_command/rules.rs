//! What a line must not say, judged by itself: what no client could have sent, and what no broker
//! would have kept.

use ringtide_codec::{Publish, PublishOut, QoS, VARINT_MAX, Version, fixed_header};
use ringtide_topics::{Filter, valid_name};

use super::format::{Content, Session, Subscription, Uncompleted, WaitsFor};

/// Bytes of a string of MQTT.
const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// What is wrong, in words that fit behind the line's number.
pub(super) type Verdict = Result<(), String>;

fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn text(name: &str, text: &str) -> Verdict {
    let fits = text.len() <= TEXT_BYTES_MAX && !text.contains('\0');
    must(fits, || format!("{name}: longer than 65535 bytes, or with U+0000"))
}

fn ascending<T: PartialOrd>(name: &str, list: &[T]) -> Verdict {
    must(list.is_sorted_by(|one, two| one < two), || {
        format!("{name}: not in ascending order, or one of them twice")
    })
}

fn subscription_id(id: u32) -> Verdict {
    must(id <= VARINT_MAX, || format!("subscription identifier {id} is above {VARINT_MAX}"))
}

/// Judges a session without the others.
pub(super) fn session(session: &Session<'_>) -> Verdict {
    must(!session.client_id.is_empty(), || "client_id: empty".to_owned())?;
    text("client_id", &session.client_id)?;
    text("username", session.username.as_deref().unwrap_or_default())?;
    session.subscriptions.iter().try_for_each(subscription)?;
    let filters: Vec<&str> = session.subscriptions.iter().map(|one| &*one.filter).collect();
    ascending("subscriptions", &filters)?;
    ascending("unreleased", &session.unreleased)?;
    must(!session.unreleased.contains(&0), || "unreleased: packet id 0".to_owned())?;
    uncompleted(&session.uncompleted, session.waiting)?;
    match &session.will {
        Some(will) => content(&will.content).map_err(|wrong| format!("will: {wrong}"))?,
        None => return Ok(()),
    }
    let tenants = session.will.as_ref().map(|will| will.content.tenant);
    must(tenants == Some(session.tenant), || "will: of another tenant".to_owned())
}

fn subscription(one: &Subscription<'_>) -> Verdict {
    let filter = &one.filter;
    text("filter", filter)?;
    Filter::parse(filter, u16::MAX).map_err(|error| format!("filter `{filter}`: {error}"))?;
    must(one.qos <= 2, || format!("filter `{filter}`: QoS {}", one.qos))?;
    subscription_id(one.id)
}

fn uncompleted(list: &[Uncompleted], waiting: u32) -> Verdict {
    let mut ids: Vec<u16> = list.iter().map(|one| one.packet_id).collect();
    ids.sort_unstable();
    ascending("uncompleted: packet ids", &ids).map_err(|_| "uncompleted: a packet id twice")?;
    must(!ids.contains(&0), || "uncompleted: packet id 0".to_owned())?;
    let places = exact_places(list);
    ascending("", &places).map_err(|_| "uncompleted: a place twice")?;
    let last = places.last().copied().unwrap_or(0);
    must(last <= waiting, || format!("uncompleted: place {last} of {waiting} that wait"))
}

/// The places of what was sent, ascending: these deliveries must be of QoS 2.
pub(super) fn exact_places(list: &[Uncompleted]) -> Vec<u32> {
    let places = list.iter().map(|one| one.place).filter(|place| *place > 0);
    let mut places: Vec<u32> = places.collect();
    places.sort_unstable();
    places
}

/// Judges what was published: whether a client could have sent it and can be sent it.
pub(super) fn content(content: &Content<'_>) -> Verdict {
    let topic = &content.topic;
    text("topic", topic)?;
    valid_name(topic, u16::MAX).map_err(|error| format!("topic `{topic}`: {error}"))?;
    must(content.qos <= 2, || format!("QoS {}", content.qos))?;
    must(content.flags < 8, || format!("flags {}: not known", content.flags))?;
    let mut head = Vec::new();
    let out = PublishOut {
        version: Version::V5,
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        message_expiry_s: None,
        topic_alias: None,
        subscription_ids: &[],
        forward: &content.properties.0,
        payload_len: content.payload.0.len(),
    };
    out.write_head(&mut head);
    let header = fixed_header(&head, VARINT_MAX).ok().flatten();
    let body = header.and_then(|header| head.get(usize::from(header.header_len)..));
    let Some(body) = body else { return Err("longer than a packet can be".to_owned()) };
    let read = Publish::decode(Version::V5, 0, body);
    let properties = read.map_err(|error| format!("properties: {:?}", error.kind))?.properties;
    must(properties.forward_is_raw && properties.raw == &*content.properties.0, || {
        "properties: a topic alias, an expiry or a subscription identifier does not travel with a \
         message"
            .to_owned()
    })
}

/// Judges one that a message waits for, without its session.
pub(super) fn waits_for(one: &WaitsFor) -> Verdict {
    must(matches!(one.qos, 1 | 2), || format!("waits_for: QoS {}, not 1 or 2", one.qos))?;
    must(one.ids.len() <= TEXT_BYTES_MAX, || "waits_for: more than 65535 ids".to_owned())?;
    must(!one.ids.contains(&0), || "waits_for: subscription identifier 0".to_owned())?;
    one.ids.iter().copied().try_for_each(subscription_id)
}
