//! Text keys (RFC 7143 section 6.1): `key=value`, each ended by a zero byte.

/// Keys in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys(Vec<(String, String)>);

impl Keys {
    /// Splits the data of a login or text request.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(data).map_err(|_| "keys that are not UTF-8".to_owned())?;
        let Some(text) = text.strip_suffix('\0').or_else(|| text.is_empty().then_some(text)) else {
            return Err("the last key has no zero byte".into());
        };
        text.split('\0')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(format!("{pair:?} is no key=value")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn push(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.push((key.into(), value.into()));
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in self.iter() {
            data.extend_from_slice(key.as_bytes());
            data.push(b'=');
            data.extend_from_slice(value.as_bytes());
            data.push(0);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_wire_and_garbage_is_named() {
        let keys = Keys::parse(b"A=1,2\0B=x=y\0").unwrap();
        assert_eq!((keys.get("A"), keys.get("B"), keys.get("C")), (Some("1,2"), Some("x=y"), None));
        assert_eq!(Keys::parse(&keys.encode()).unwrap(), keys);
        assert!(Keys::parse(b"").unwrap().iter().next().is_none());
        assert!(Keys::parse(b"A=1").is_err());
        assert!(Keys::parse(b"A\0").is_err());
    }
}
