//! Heads apart from the buffers they came in. A parser's values are views of what was read from the network at once, which is some
//! dozens of kilobytes: as long as one of them is kept, so is all of that, and the next read needs a buffer of its own.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};

/// Copies the values of a head together, so that it holds nothing else.
pub(crate) fn set_apart(fields: &mut HeaderMap) {
    let mut all = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    fields.values().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut all = all.freeze();
    for value in fields.values_mut() {
        // What was a value is one.
        if let Ok(own) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            *value = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_head_that_is_set_apart_says_the_same_and_holds_no_buffer() {
        let read = Bytes::from(b"one, \xe9 two and the body".to_vec());
        let value = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut fields = HeaderMap::new();
        fields.append("a", value(0..3));
        fields.append("b", value(3..3));
        fields.append("a", value(5..10));
        let before = fields.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect::<Vec<_>>();
        assert!(!read.is_unique());
        set_apart(&mut fields);
        assert!(read.is_unique());
        let after = fields.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect::<Vec<_>>();
        assert_eq!(after, before);
    }
}
