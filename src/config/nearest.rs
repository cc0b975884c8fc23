//! The name that was probably meant.

/// As alike as a name must be to be proposed: from 0, nothing in common, to 1.
const ALIKE_MIN: f64 = 0.75;

/// The one of `names` that is most like `name`, if any is.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let rated = names.map(|known| (alike(&name.to_lowercase(), &known.to_lowercase()), known));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(alike, _)| *alike >= ALIKE_MIN).map(|(_, known)| known)
}

/// Who writes only a setting's own name has left out its section.
fn alike(name: &str, known: &str) -> f64 {
    match known.split_once('_') {
        Some((_section, own)) if own == name => 1.0,
        _ => strsim::jaro_winkler(name, known),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_seen_and_a_stranger_is_not() {
        let names = ["MEMORY_WATERMARK", "LIMITS_FRAME_MAX_BYTES", "LOG_LEVEL", "LISTEN"];
        for (written, meant) in [
            ("MEMORY_WATERMARKS", Some("MEMORY_WATERMARK")),
            ("LIMITS_FRAME_MAX", Some("LIMITS_FRAME_MAX_BYTES")),
            ("loglevel", Some("LOG_LEVEL")),
            ("LISTENERS", Some("LISTEN")),
            ("FRAME_MAX_BYTES", Some("LIMITS_FRAME_MAX_BYTES")),
            ("XYZ", None),
        ] {
            let found = nearest(written, names.iter().map(|&name| name.to_owned()));
            assert_eq!(found.as_deref(), meant, "{written}");
        }
    }
}
