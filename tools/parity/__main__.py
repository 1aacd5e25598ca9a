import sys

from tools.parity.tables import main

sys.exit(main())
