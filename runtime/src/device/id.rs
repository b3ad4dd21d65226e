//! Names of devices: `cpu`, `cuda:0`.

use std::fmt;
use std::str::FromStr;

/// Identifies a device of this machine.
///
/// ```
/// use jamba_runtime::DeviceId;
///
/// assert_eq!("cuda:1".parse(), Ok(DeviceId::Cuda(1)));
/// assert_eq!("cuda".parse::<DeviceId>().map(|device| device.to_string()), Ok("cuda:0".to_owned()));
/// assert!("tpu".parse::<DeviceId>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its index in the driver's order, from 0.
    Cuda(u32),
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Cpu => f.write_str("cpu"),
            DeviceId::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// The error for text that does not name a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {0:?}: expected cpu or cuda:N")]
pub struct NoDeviceId(String);

impl FromStr for DeviceId {
    type Err = NoDeviceId;

    fn from_str(text: &str) -> Result<DeviceId, NoDeviceId> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(DeviceId::Cpu),
            ("cuda", _) => Ok(DeviceId::Cuda(0)),
            (_, Some(Ok(number))) => Ok(DeviceId::Cuda(number)),
            _ => Err(NoDeviceId(text.to_owned())),
        }
    }
}
