//! User properties: the application's own names and values, in order, repeats included.

use crate::property::{Place, PropertyIter, check, copy_if};
use crate::{DecodeError, PacketType, Property, PropertyId};
use alloc::vec::Vec;
use core::fmt;

/// The user properties of a packet: a view of its property block that shows nothing else.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    raw: &'a [u8],
}

impl<'a> UserProperties<'a> {
    /// None.
    pub const EMPTY: Self = Self { raw: &[] };

    /// A view of a property block that was checked when its packet was decoded.
    pub(crate) const fn of_checked(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// User properties to send, from bytes that [`push_user_property`] wrote.
    ///
    /// Errors: anything else in `raw`.
    pub fn parse(raw: &'a [u8]) -> Result<Self, DecodeError> {
        // UNSUBSCRIBE allows user properties and nothing else.
        let place = Place::Packet(PacketType::Unsubscribe);
        check(raw, place)?;
        Ok(Self { raw })
    }

    /// The pairs of name and value in the order they were given.
    pub fn iter(&self) -> UserPropertyIter<'a> {
        UserPropertyIter { properties: PropertyIter::new(self.raw) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Appends them as property bytes, without a length in front.
    pub fn write(&self, out: &mut Vec<u8>) {
        copy_if(self.raw, out, |id| id == PropertyId::UserProperty);
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertyIter<'a>;

    fn into_iter(self) -> UserPropertyIter<'a> {
        self.iter()
    }
}

/// The pairs of [`UserProperties`].
#[derive(Clone, Debug)]
pub struct UserPropertyIter<'a> {
    properties: PropertyIter<'a>,
}

impl<'a> Iterator for UserPropertyIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        self.properties.by_ref().find_map(|property| match property {
            Property::UserProperty(pair) => Some(pair),
            _ => None,
        })
    }
}

/// Appends one user property as property bytes: for [`UserProperties::parse`], or for the
/// forwarded properties of a PUBLISH. Name and value are cut at 65 535 bytes.
pub fn push_user_property(out: &mut Vec<u8>, name: &str, value: &str) {
    Property::UserProperty((name, value)).write(out);
}

/// Shows each pair as a property, for packets that send them.
pub(crate) fn visit(properties: &UserProperties<'_>, visit: &mut dyn FnMut(Property<'_>)) {
    for pair in properties.iter() {
        visit(Property::UserProperty(pair));
    }
}
