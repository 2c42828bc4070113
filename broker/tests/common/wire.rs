//! Bytes of MQTT: integers, strings and properties, written and strictly read.
//! Must not know packets.

/// Reason codes that the tests name.
pub mod code {
    pub const SUCCESS: u8 = 0x00;
    pub const DISCONNECT_WITH_WILL: u8 = 0x04;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub const CONTINUE_AUTHENTICATION: u8 = 0x18;
    pub const RE_AUTHENTICATE: u8 = 0x19;
    pub const UNSPECIFIED: u8 = 0x80;
    pub const MALFORMED: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const UNSUPPORTED_VERSION: u8 = 0x84;
    pub const CLIENT_ID_INVALID: u8 = 0x85;
    pub const BAD_CREDENTIALS: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const SHUTTING_DOWN: u8 = 0x8B;
    pub const BAD_AUTH_METHOD: u8 = 0x8C;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub const TAKEN_OVER: u8 = 0x8E;
    pub const FILTER_INVALID: u8 = 0x8F;
    pub const TOPIC_INVALID: u8 = 0x90;
    pub const ID_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub const ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
}

/// Property identifiers.
pub mod prop {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
    pub const RESPONSE_INFO: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    U16(u16),
    U32(u32),
    Var(u32),
    Str(String),
    Bin(Vec<u8>),
    Pair(String, String),
    /// Bytes as they are, for properties that must be refused.
    Raw(Vec<u8>),
}

/// Properties in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Props(pub Vec<(u8, Value)>);

impl Props {
    pub fn none() -> Props {
        Props::default()
    }

    fn with(mut self, id: u8, value: Value) -> Props {
        self.0.push((id, value));
        self
    }

    pub fn byte(self, id: u8, v: u8) -> Props {
        self.with(id, Value::Byte(v))
    }

    pub fn u16(self, id: u8, v: u16) -> Props {
        self.with(id, Value::U16(v))
    }

    pub fn u32(self, id: u8, v: u32) -> Props {
        self.with(id, Value::U32(v))
    }

    pub fn var(self, id: u8, v: u32) -> Props {
        self.with(id, Value::Var(v))
    }

    pub fn str(self, id: u8, v: &str) -> Props {
        self.with(id, Value::Str(v.to_owned()))
    }

    pub fn bin(self, id: u8, v: &[u8]) -> Props {
        self.with(id, Value::Bin(v.to_vec()))
    }

    pub fn user(self, name: &str, value: &str) -> Props {
        self.with(prop::USER_PROPERTY, Value::Pair(name.to_owned(), value.to_owned()))
    }

    pub fn raw(self, id: u8, bytes: &[u8]) -> Props {
        self.with(id, Value::Raw(bytes.to_vec()))
    }

    pub fn find(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|(i, _)| *i == id).map(|(_, v)| v)
    }

    pub fn has(&self, id: u8) -> bool {
        self.find(id).is_some()
    }

    /// The value of an integer property, whatever its width.
    pub fn number(&self, id: u8) -> Option<u32> {
        match self.find(id)? {
            Value::Byte(v) => Some(u32::from(*v)),
            Value::U16(v) => Some(u32::from(*v)),
            Value::U32(v) | Value::Var(v) => Some(*v),
            _ => None,
        }
    }

    pub fn text(&self, id: u8) -> Option<&str> {
        match self.find(id)? {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// All subscription identifiers, sorted.
    pub fn subscription_ids(&self) -> Vec<u32> {
        let of = |(id, v): &(u8, Value)| match (id, v) {
            (&prop::SUBSCRIPTION_ID, Value::Var(n)) => Some(*n),
            _ => None,
        };
        let mut ids: Vec<u32> = self.0.iter().filter_map(of).collect();
        ids.sort_unstable();
        ids
    }

    /// The properties without those that a server adds or changes.
    pub fn forwarded(&self) -> Props {
        let own = [prop::TOPIC_ALIAS, prop::SUBSCRIPTION_ID, prop::MESSAGE_EXPIRY];
        Props(self.0.iter().filter(|(id, _)| !own.contains(id)).cloned().collect())
    }

    /// Property length and properties.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, value) in &self.0 {
            body.push(*id);
            match value {
                Value::Byte(v) => body.push(*v),
                Value::U16(v) => body.extend(v.to_be_bytes()),
                Value::U32(v) => body.extend(v.to_be_bytes()),
                Value::Var(v) => body.extend(varint(*v)),
                Value::Str(s) => body.extend(string(s.as_bytes())),
                Value::Bin(b) => body.extend(string(b)),
                Value::Pair(k, v) => {
                    body.extend(string(k.as_bytes()));
                    body.extend(string(v.as_bytes()));
                }
                Value::Raw(b) => body.extend(b),
            }
        }
        let mut out = varint(body.len() as u32);
        out.extend(body);
        out
    }
}

/// A variable byte integer in the fewest bytes.
pub fn varint(mut n: u32) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n % 128) as u8;
        n /= 128;
        if n == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// Two bytes of length and the bytes: a string or binary data, valid or not.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a test's string fits");
    let mut out = len.to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// A packet: first byte, remaining length, body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len() as u32));
    out.extend(body);
    out
}

/// A cursor over a received body. What is wrong is an `Err` with the reason: the server's fault.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or("the packet is cut short")?;
        self.rest = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, String> {
        Ok(self.take(2)?.iter().fold(0, |n, b| n << 8 | u16::from(*b)))
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(self.take(4)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    pub fn varint(&mut self) -> Result<u32, String> {
        let mut n = 0;
        for i in 0..4 {
            let byte = self.u8()?;
            n |= u32::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                let minimal = i == 0 || byte != 0;
                return if minimal { Ok(n) } else { Err("an over-long integer".to_owned()) };
            }
        }
        Err("an integer of more than four bytes".to_owned())
    }

    pub fn binary(&mut self) -> Result<&'a [u8], String> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub fn string(&mut self) -> Result<String, String> {
        let text = std::str::from_utf8(self.binary()?).map_err(|e| e.to_string())?;
        if text.contains('\0') {
            return Err("U+0000 in a string".to_owned());
        }
        Ok(text.to_owned())
    }

    /// Reads properties; `allowed` are those that may stand in this packet.
    pub fn props(&mut self, allowed: &[u8]) -> Result<Props, String> {
        let len = self.varint()? as usize;
        let mut inner = Reader::new(self.take(len)?);
        let mut props = Props::none();
        while !inner.is_empty() {
            let id = inner.u8()?;
            if !allowed.contains(&id) {
                return Err(format!("property {id:#04x} does not belong here"));
            }
            let repeats = id == prop::USER_PROPERTY || id == prop::SUBSCRIPTION_ID;
            if !repeats && props.has(id) {
                return Err(format!("property {id:#04x} given twice"));
            }
            let value = inner.value(id)?;
            props.0.push((id, value));
        }
        Ok(props)
    }

    fn value(&mut self, id: u8) -> Result<Value, String> {
        Ok(match id {
            prop::MESSAGE_EXPIRY
            | prop::SESSION_EXPIRY
            | prop::WILL_DELAY
            | prop::MAXIMUM_PACKET_SIZE => Value::U32(self.u32()?),
            prop::SERVER_KEEP_ALIVE
            | prop::RECEIVE_MAXIMUM
            | prop::TOPIC_ALIAS_MAXIMUM
            | prop::TOPIC_ALIAS => Value::U16(self.u16()?),
            prop::SUBSCRIPTION_ID => Value::Var(self.varint()?),
            prop::CORRELATION_DATA | prop::AUTH_DATA => Value::Bin(self.binary()?.to_vec()),
            prop::USER_PROPERTY => Value::Pair(self.string()?, self.string()?),
            prop::CONTENT_TYPE
            | prop::RESPONSE_TOPIC
            | prop::ASSIGNED_CLIENT_ID
            | prop::AUTH_METHOD
            | prop::RESPONSE_INFO
            | prop::SERVER_REFERENCE
            | prop::REASON_STRING => Value::Str(self.string()?),
            _ => match self.u8()? {
                v @ (0 | 1) => Value::Byte(v),
                v => return Err(format!("property {id:#04x} holds {v}, not 0 or 1")),
            },
        })
    }
}
