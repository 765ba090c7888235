import sys

from tandem_trainer.cli import main

sys.exit(main())
