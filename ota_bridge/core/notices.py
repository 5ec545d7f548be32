"""What a notice says to one device, or why there can be none."""

from ota_bridge.core.catalog import Release, ReleasePart
from ota_bridge.core.conversation import Conversation
from ota_bridge.core.deployment import Deployment
from ota_bridge.core.fleet import Device
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.messages import Offer
from ota_bridge.core.ports import Links
from ota_bridge.core.rules import Rules
from ota_bridge.core.values import NATIVE, DeploymentId, Sha256


def no_links(_deployment: DeploymentId, _manifest: ManifestFacts, _wall: float) -> str:
    """Nothing is served by URL."""
    return ""


def url(rules: Rules, links: Links, deployment: DeploymentId, part: ReleasePart, wall: float) -> str:
    """Where the image of a deployment may be fetched by HTTP; empty: nowhere."""
    own = links(deployment, part.manifest, wall)
    return own or rules.public_url.replace("{sha256}", part.manifest.sha256.hex())


def notice(
    rules: Rules, device: Device, deployment: Deployment, release: Release, speaker: Conversation | None = None
) -> Offer | str | None:  # fmt: skip
    """The notice of a deployment, still without its ticket; or the cause for which there is none.

    None: `speaker`, the dialect of the device's vendor, says it in its own way.
    """
    part = release.parts[deployment.component]
    if speaker is not None:
        missing = [name for name in speaker.author_fields if name not in part.metadata]
        if not missing:
            return None
        return (
            f"release {release.id} lacks {', '.join(missing)}, which {speaker.name} devices need of its author; "
            "add it with: release describe"
        )
    if device.dialect not in {"", NATIVE}:
        return f"the device speaks {device.dialect}, which is not set up: it needs [dialects.{device.dialect}]"
    if device.boot is None:
        return "the device has not checked in"
    return Offer(
        device=device.id,
        encoding=device.encoding,
        deployment=deployment.id,
        release=deployment.release,
        component=deployment.component,
        manifest=part.envelope,
        manifest_digest=Sha256(part.manifest.digest),
        ticket=None,
        ticket_digest=None,
        boot=device.boot,
        nonce=device.nonce,
        block_max=min(rules.block_max, device.max_block or rules.block_max),
        window_max=min(rules.window_max, device.max_window or rules.window_max),
        resend_after_s=int(rules.pacing.resend_after_s),
        max_packet=device.max_packet,
    )
