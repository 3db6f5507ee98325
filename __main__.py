"""Deploys the lifecycle that the selected stack configures (stacks/Pulumi.<stack>.yaml)."""

from pathlib import Path

import pulumi

from jewelhouse.deploy import main
from jewelhouse.errors import JewelhouseError

try:
    main(Path(__file__).parent)
except JewelhouseError as error:
    # A RunError is shown as it is, without a traceback.
    raise pulumi.RunError(f"\n{error}") from error
