//! Which fusions run: `all`, `none`, a list, or `all` without some.

use std::fmt;
use std::str::FromStr;

use crate::{Error, PIPELINE};

/// The fusions to run. Passes that are not fusions always run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fusion {
    #[default]
    All,
    /// The graph as models/ emits it.
    None,
    /// Names in [`PIPELINE`].
    Only(Vec<&'static str>),
}

impl Fusion {
    /// Names of all fusions, in the order in which they run.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PIPELINE.iter().map(|planned| planned.pass).filter(|pass| pass.is_fusion()).map(|pass| pass.name())
    }

    /// These fusions without some.
    pub fn without(&self, names: &[&str]) -> Fusion {
        Fusion::Only(Fusion::names().filter(|name| self.includes(name) && !names.contains(name)).collect())
    }

    pub fn includes(&self, name: &str) -> bool {
        match self {
            Fusion::All => true,
            Fusion::None => false,
            Fusion::Only(names) => names.contains(&name),
        }
    }
}

impl FromStr for Fusion {
    type Err = Error;

    /// `all`, `none`, `a,b` or `all,-a,-b`; in any order.
    fn from_str(text: &str) -> Result<Fusion, Error> {
        let known = |found: &str| {
            Fusion::names().find(|&name| name == found).ok_or_else(|| Error::UnknownFusion {
                found: found.into(),
                known: Fusion::names().collect::<Vec<_>>().join(", "),
            })
        };
        let items: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut chosen: Vec<&str> = Vec::new();
        match items[..] {
            ["all"] => return Ok(Fusion::All),
            ["none"] => return Ok(Fusion::None),
            ["all", ref rest @ ..] => {
                chosen.extend(Fusion::names());
                for item in rest {
                    let without = known(item.strip_prefix('-').unwrap_or(item))?;
                    chosen.retain(|&name| name != without || !item.starts_with('-'));
                }
            }
            _ => {
                for item in items {
                    chosen.push(known(item)?);
                }
            }
        }
        Ok(Fusion::Only(Fusion::names().filter(|name| chosen.contains(name)).collect()))
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fusion::All => f.write_str("all"),
            Fusion::None => f.write_str("none"),
            Fusion::Only(names) if names.is_empty() => f.write_str("none"),
            Fusion::Only(names) => f.write_str(&names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        let read = |text: &str| text.parse::<Fusion>().unwrap();
        assert_eq!(read("all"), Fusion::All);
        assert_eq!(read("none"), Fusion::None);
        assert_eq!(read("fuse-swiglu, fuse-conv-silu").to_string(), "fuse-conv-silu,fuse-swiglu");
        let all_but = read("all,-fuse-swiglu");
        assert!(all_but.includes("fuse-conv-silu") && !all_but.includes("fuse-swiglu"));
        assert_eq!(Fusion::All.without(&["fuse-swiglu"]), all_but);
        for fusion in [Fusion::All, Fusion::None, all_but] {
            assert_eq!(read(&fusion.to_string()), fusion);
        }
    }

    #[test]
    fn unknown_names_list_the_known() {
        expect![[r#"fusion "fuse-silu": expected all, none, or some of fuse-conv-silu, fuse-dt-softplus, fuse-dt-norms, fuse-dt-scan, fuse-norms-scan, fuse-scan-gate, hoist-select-rows, fuse-swiglu, fuse-in-proj, fuse-qkv, fuse-gate-up, fuse-router, fuse-experts, fuse-kv-append, fuse-residual-norm, fuse-norm-linear, fuse-proj-conv"#]]
            .assert_eq(&"fuse-swiglu,fuse-silu".parse::<Fusion>().unwrap_err().to_string());
        assert!("".parse::<Fusion>().is_err());
        assert!("eliminate-dead".parse::<Fusion>().is_err());
        assert!("all,-fuse-silu".parse::<Fusion>().is_err());
    }
}
