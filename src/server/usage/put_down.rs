//! The form in which uses are put down when a process stops: one behind the other, numbers as eight bytes.

use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::proxy::usage::{Use, Verdict};

/// Writes uses.
pub(super) fn write(uses: &[Use]) -> Vec<u8> {
    let mut out = Vec::with_capacity(uses.len() * 96);
    for one in uses {
        out.extend_from_slice(&one.organization.to_bytes());
        out.extend_from_slice(&one.connection.to_bytes());
        put_text(&mut out, one.environment.as_str());
        out.push(one.caller.is_some().into());
        out.extend(one.caller.iter().flat_map(|caller| caller.to_bytes()));
        out.push(one.verdict.map_or(0, |(verdict, _)| if verdict == Verdict::Taken { 1 } else { 2 }));
        for number in [one.hour, one.count, one.last, one.verdict.map_or(0, |(_, second)| second)] {
            put(&mut out, number);
        }
        put(&mut out, one.workflows.len() as u64);
        for (workflow, second) in &one.workflows {
            put_text(&mut out, workflow);
            put(&mut out, *second);
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads them again; `None` where that is not what was written.
pub(super) fn read(mut bytes: &[u8]) -> Option<Vec<Use>> {
    let mut uses = Vec::new();
    while !bytes.is_empty() {
        uses.push(read_one(&mut bytes)?);
    }
    Some(uses)
}

fn read_one(rest: &mut &[u8]) -> Option<Use> {
    let organization = OrganizationId::from_bytes(take(rest)?);
    let connection = ConnectionId::from_bytes(take(rest)?);
    let environment = text(rest)?.parse().ok()?;
    let caller = match take(rest)? {
        [0] => None,
        [_] => Some(ApiKeyId::from_bytes(take(rest)?)),
    };
    let verdict = match take(rest)? {
        [0] => None,
        [1] => Some(Verdict::Taken),
        [_] => Some(Verdict::Refused),
    };
    let (hour, count, last, judged) = (number(rest)?, number(rest)?, number(rest)?, number(rest)?);
    let verdict = verdict.map(|verdict| (verdict, judged));
    let workflows = (0..number(rest)?).map(|_| Some((text(rest)?.to_owned(), number(rest)?))).collect::<Option<_>>()?;
    Some(Use { organization, connection, environment, caller, hour, count, last, verdict, workflows })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn text<'t>(rest: &mut &'t [u8]) -> Option<&'t str> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_down_is_read_again_and_nothing_else_is() {
        let one = |caller, verdict, workflows: &[(&str, u64)]| Use {
            organization: OrganizationId::generate(),
            connection: ConnectionId::generate(),
            environment: "staging".parse().unwrap(),
            caller,
            hour: 1,
            count: u64::MAX,
            last: 3,
            verdict,
            workflows: workflows.iter().map(|(workflow, second)| ((*workflow).to_owned(), *second)).collect(),
        };
        let uses = [
            one(None, None, &[]),
            one(Some(ApiKeyId::generate()), Some((Verdict::Taken, 4)), &[("nightly", 5), ("\u{e9}", 6)]),
            one(None, Some((Verdict::Refused, 7)), &[("", 8)]),
        ];
        let written = write(&uses);
        assert_eq!(read(&written).unwrap(), uses);
        assert_eq!(read(&[]), Some(Vec::new()));
        let ends: Vec<usize> = (0..=uses.len()).map(|count| write(&uses[..count]).len()).collect();
        for end in (0..written.len()).filter(|end| !ends.contains(end)) {
            assert_eq!(read(&written[..end]), None, "{end}");
        }
    }
}
