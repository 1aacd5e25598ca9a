import sys

from tools.pages.written import main

sys.exit(main())
